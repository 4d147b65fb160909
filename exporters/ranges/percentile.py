"""Everything but the rarest values."""

from __future__ import annotations

import math

import numpy as np

from exporters.base import ExportError, Range, Values
from exporters.ranges.histogram import Histogram


class Percentile:
    """The middle part of all values: an equal share is cut off at either end, as ONNX Runtime's calibrator does.

    Args:
        percent: of the values that stay inside, above 50, at most 100.
    """

    def __init__(self, percent: float = 99.99) -> None:
        if not 50 < percent <= 100:
            raise ExportError(
                f"percentile takes the percentage that stays inside, above 50, at most 100; got {percent}"
            )
        self._percent = percent
        self._histogram = Histogram()

    def observe(self, values: Values) -> None:
        """See `exporters.base.Observer.observe`."""
        self._histogram.add(values)

    def range(self) -> Range:
        """See `exporters.base.Observer.range`; the ends are edges of the bins that hold the two percentiles."""
        edges, counts = self._histogram.ordered()
        below = np.cumsum(counts)
        # Rounded first: 0.1 % of 1,000 values is one value, not 0.9999.
        cut = math.floor(round((100 - self._percent) / 200 * below[-1], 6))
        low = edges[np.searchsorted(below, cut, side="right")]
        high = edges[np.searchsorted(below, below[-1] - cut) + 1]
        return max(self._histogram.lowest, float(low)), min(self._histogram.highest, float(high))
