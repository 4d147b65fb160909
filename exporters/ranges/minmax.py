"""Everything that was seen: nothing is clipped, and one outlier stretches the scale of all."""

from __future__ import annotations

import math

from exporters.base import Range, Values


class MinMax:
    """The lowest and the highest value over all pictures."""

    def __init__(self) -> None:
        self._low, self._high = math.inf, -math.inf

    def observe(self, values: Values) -> None:
        """See `exporters.base.Observer.observe`."""
        self._low = min(self._low, float(values.min()))
        self._high = max(self._high, float(values.max()))

    def range(self) -> Range:
        """See `exporters.base.Observer.range`."""
        return self._low, self._high
