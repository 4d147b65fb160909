"""A histogram of fixed size for values of any number, in any order."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from exporters.base import Range, Values

BINS = 4096

# Of the width of a bin before the first value: OpenCV takes the ends of a histogram in float32.
SMALLEST_EXPONENT = -126

# OpenCV counts in float32, which holds every whole number up to here.
_COUNTED_AT_ONCE = 1 << 24


class Histogram:
    """How often magnitudes of each sign fall into bins whose width is a power of two.

    The width doubles, and bins merge in pairs, whenever a value does not fit. Because halving a bin's number is exact,
    the counts depend on the values alone: not on their order, and not on how they were divided among calls.

    Attributes:
        counts: int64 [2, BINS]; row 0 counts values from zero up, row 1 those below zero. Bin ``i`` holds magnitudes
            from ``i * width`` on, up to but without ``(i + 1) * width``.
        lowest: the lowest value.
        highest: the highest value.
    """

    def __init__(self) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros((2, BINS), np.int64)
        self.lowest, self.highest = math.inf, -math.inf
        self._exponent = SMALLEST_EXPONENT

    @property
    def width(self) -> float:
        """The width of a bin."""
        return math.ldexp(1.0, self._exponent)

    def add(self, values: Values) -> None:
        """Count finite values, float32 of any shape."""
        low, high = float(values.min()), float(values.max())
        self.lowest, self.highest = min(self.lowest, low), max(self.highest, high)
        # A magnitude m is below 2 ** frexp(m)[1], and BINS is a power of two.
        needed = math.frexp(max(-low, high))[1] - BINS.bit_length() + 1
        if needed > self._exponent and (low or high):
            self._widen(needed - self._exponent)
        flat = values.reshape(-1)
        for start in range(0, flat.size, _COUNTED_AT_ONCE):
            part = flat[start : start + _COUNTED_AT_ONCE]
            self.counts[0] += self._count(part)
            if low < 0:
                below = self._count(-part)
                below[0] -= part.size - cv2.countNonZero(part)  # zeros have been counted above
                self.counts[1] += below

    def ordered(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Edges, float64 [2 * BINS + 1], and counts, int64 [2 * BINS], from the lowest to the highest bin."""
        edges = np.arange(-BINS, BINS + 1, dtype=np.float64) * self.width
        return edges, np.concatenate([self.counts[1, ::-1], self.counts[0]])

    def within(self, threshold: float) -> Range:
        """The part of the observed range whose magnitude is at most ``threshold``."""
        return max(self.lowest, -threshold), min(self.highest, threshold)

    def _count(self, part: Values) -> npt.NDArray[np.int64]:
        span = [0.0, BINS * self.width]
        return cv2.calcHist([part.reshape(1, -1)], [0], None, [BINS], span).ravel().astype(np.int64)

    def _widen(self, doublings: int) -> None:
        self._exponent += doublings
        bins = np.arange(BINS) >> min(doublings, BINS.bit_length())
        for row in range(2):
            self.counts[row] = np.bincount(bins, weights=self.counts[row], minlength=BINS).astype(np.int64)
