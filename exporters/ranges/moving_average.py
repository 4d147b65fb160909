"""The extremes of a typical picture, as quantisation-aware training keeps them."""

from __future__ import annotations

from exporters.base import ExportError, Range, Values


class MovingAverage:
    """Exponential moving averages of each picture's lowest and highest value (Jacob et al., 2018, section 3.1).

    Args:
        share: of the newest picture, above 0, at most 1. 0.01 is what PyTorch's MovingAverageMinMaxObserver takes.
    """

    def __init__(self, share: float = 0.01) -> None:
        if not 0 < share <= 1:
            raise ExportError(f"moving-average takes the share of the newest picture, above 0, at most 1; got {share}")
        self._share = share
        self._range: Range | None = None

    def observe(self, values: Values) -> None:
        """See `exporters.base.Observer.observe`."""
        new = float(values.min()), float(values.max())
        low, high = self._range or new
        self._range = low + self._share * (new[0] - low), high + self._share * (new[1] - high)

    def range(self) -> Range:
        """See `exporters.base.Observer.range`."""
        assert self._range is not None, "a tensor is observed before it is asked for its range"
        return self._range
