"""Looks: how a run may be looked at again and again without fooling oneself.

Looking at a 95 % interval after every picture and stopping when it pleases makes it wrong far more often than one time
in twenty. So the looks are planned: their number is known beforehand, and each uses an interval so wide that all looks
together are right 95 times in a hundred (Bonferroni's inequality). Looks follow at pictures growing by a quarter, so
their number grows with the logarithm of the pictures, and the price is an interval 1.4 to 1.6 times as wide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

from harness.estimate import CONFIDENCE, Z

FIRST_LOOK = 50  # pictures, below which no interval says much
GROWTH = 1.25


def looks(total: int) -> list[int]:
    """The numbers of pictures after which a run of ``total`` is looked at; the last is ``total``.

    >>> looks(120)
    [50, 63, 79, 99, 120]
    """
    found = []
    at = FIRST_LOOK
    while at < total:
        found.append(at)
        at = math.ceil(GROWTH * at)
    return [*found, total]


def z_from_looks(count: int) -> float:
    """How many standard deviations wide an interval is that holds at ``count`` looks together in 95 of 100 runs.

    >>> round(z_from_looks(1), 2), round(z_from_looks(30), 2)
    (1.96, 3.14)
    """
    return NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (2 * count))


def z_from_stopping(stopping: Mapping[str, Any] | None) -> float:
    """The same for a run: its record of the rule that may end it early says how many looks there are."""
    return z_from_looks(len(stopping["looks"])) if stopping else Z
