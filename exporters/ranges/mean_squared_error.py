"""The range whose rounding and clipping errors together are smallest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from exporters.base import Range, Values
from exporters.ranges.histogram import Histogram

STEPS = 255
SHRINK = np.arange(20, 101) / 100


class MeanSquaredError:
    """The observed range times the factor of 0.20, 0.21, ... 1.00 with the smallest mean squared quantisation error."""

    def __init__(self) -> None:
        self._histogram = Histogram()

    def observe(self, values: Values) -> None:
        """See `exporters.base.Observer.observe`."""
        self._histogram.add(values)

    def range(self) -> Range:
        """See `exporters.base.Observer.range`."""
        edges, counts = self._histogram.ordered()
        present = counts > 0
        centres = ((edges[:-1] + edges[1:]) / 2)[present]
        # The bin from zero on stands for zero itself: behind a ReLU most values are exactly that.
        centres[edges[:-1][present] == 0] = 0
        whole = min(self._histogram.lowest, 0.0), max(self._histogram.highest, 0.0)
        errors = [mean_squared_error(centres, counts[present], (whole[0] * by, whole[1] * by)) for by in SHRINK]
        best = float(SHRINK[int(np.argmin(errors))])
        return self._histogram.lowest * best, self._histogram.highest * best


def mean_squared_error(values: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], span: Range) -> float:
    """Of quantising ``values`` to 256 levels over ``span``, a range that includes zero; zero keeps its own level."""
    scale = (span[1] - span[0]) / STEPS
    if not scale:
        return 0.0
    zero = round(-span[0] / scale)
    levels = np.clip(np.rint(values / scale) + zero, 0, STEPS)
    return float(np.average(((levels - zero) * scale - values) ** 2, weights=counts))
