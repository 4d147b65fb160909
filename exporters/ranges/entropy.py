"""The threshold that loses the least information: TensorRT's method."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from exporters.base import Range, Values
from exporters.ranges.histogram import Histogram

# Of one sign of an 8-bit integer; the number that TensorRT takes.
LEVELS = 128


class Entropy:
    """The threshold whose clipped distribution is nearest to its own quantisation, by Kullback-Leibler divergence.

    Source: Migacz, "8-bit inference with TensorRT", GTC 2017, but for two things: the count of zero is set aside, and
    what is clipped joins the last bin that is occupied. A threshold clips both signs, so the range is symmetric but for
    what never occurred.
    """

    def __init__(self) -> None:
        self._histogram = Histogram()

    def observe(self, values: Values) -> None:
        """See `exporters.base.Observer.observe`."""
        self._histogram.add(values)

    def range(self) -> Range:
        """See `exporters.base.Observer.range`."""
        # Half of the bins: magnitudes then fill 1,024 to 2,048 of them, the number that the method was made for.
        magnitudes = self._histogram.counts.sum(axis=0).reshape(-1, 2).sum(axis=1)
        return self._histogram.within(2 * self._histogram.width * best_length(magnitudes))


def best_length(counts: npt.NDArray[np.int64]) -> int:
    """How many bins to keep so that the divergence is smallest.

    Args:
        counts: int64 [bins] of magnitudes, from zero on.
    """
    occupied = int(np.flatnonzero(counts)[-1]) + 1
    counts = counts[:occupied].copy()
    if occupied <= LEVELS:
        return occupied
    # Zero has an integer of its own and is never rounded. Behind a ReLU its count would drown all others.
    counts[0] = counts[1]
    lengths = range(LEVELS, occupied + 1)
    divergences = [divergence(counts, length) for length in lengths]
    return lengths[int(np.argmin(divergences))]


def divergence(counts: npt.NDArray[np.int64], length: int) -> float:
    """Kullback-Leibler divergence from the clipped distribution to its quantisation, in nats; may be infinite.

    Args:
        counts: int64 [bins].
        length: bins that are kept; what lies beyond is clipped.
    """
    kept = counts[:length].astype(np.float64)
    starts = np.arange(LEVELS) * length // LEVELS
    sums = np.add.reduceat(kept, starts)
    occupied = np.add.reduceat((kept > 0).astype(np.float64), starts)
    means = np.divide(sums, occupied, out=np.zeros(LEVELS), where=occupied > 0)
    quantised = np.repeat(means, np.diff(np.append(starts, length))) * (kept > 0)
    mask = kept > 0
    if not mask.any():
        return np.inf
    clipped, quantised = kept[mask], quantised[mask]
    # Into the last bin that is occupied: an empty one has no level, and the divergence would be infinite.
    clipped[-1] += counts[length:].sum()
    wanted, got = clipped / clipped.sum(), quantised / quantised.sum()
    return float((wanted * np.log(wanted / got)).sum())
