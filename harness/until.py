"""Until: a rule that ends a run as soon as it has said enough."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.estimate import Estimate
from harness.looks import looks
from harness.report.build import Report, report_from_store
from harness.store import STOPPING, Store

RULE = re.compile(r"\s*(ci|drop)\s*<\s*(\d+(?:\.\d*)?)\s*")
FORMS = {
    "ci": "every paired difference is known to ± POINTS",
    "drop": "it is certain that every cell drops by less than POINTS, or that one drops by more",
}


@dataclass(frozen=True)
class Until:
    """When a run has said enough.

    Args:
        quantity: a row of `FORMS`.
        points: the bound, in percentage points.
    """

    quantity: str
    points: float

    def __str__(self) -> str:
        return f"{self.quantity}<{self.points:g}"

    def reached(self, report: Report) -> bool:
        """Whether a report whose intervals are those of one of the planned looks says enough."""
        differences = cell_differences(report)
        if any(each.low is None or each.high is None or each.value is None for each in differences):
            return False
        if self.quantity == "ci":
            return all(half_width(each) < self.points / 100 for each in differences)
        bound = -self.points / 100
        certain = all(each.low is not None and each.low > bound for each in differences)
        return certain or any(each.high is not None and each.high < bound for each in differences)


def until_from_text(text: str) -> Until:
    """Read ``ci<0.5`` or ``drop<1``.

    Raises:
        HarnessError: it is neither.
    """
    found = RULE.fullmatch(text)
    if not found or not float(found[2]):
        forms = "; ".join(f"{name}<POINTS: {meaning}" for name, meaning in FORMS.items())
        raise HarnessError(f"expected a rule such as ci<0.5 after --until ({forms}); got {text!r}")
    return Until(found[1], float(found[2]))


class Lookout:
    """Looks at a run at the planned numbers of pictures.

    Args:
        until: the rule; ``None`` never has enough.
        store: the run.
        total: pictures of the whole run.
    """

    def __init__(self, until: Until | None, store: Store, total: int) -> None:
        self._until, self._store = until, store
        self._looks = looks(total)
        self._seen = 0
        if until is None:
            store.remove(STOPPING)
        else:
            self._tell(None)

    def enough(self, pictures: int) -> bool:
        """Whether the run, complete up to so many pictures, has said enough; false where no look is due."""
        if self._until is None or not any(self._seen < look <= pictures for look in self._looks):
            return False
        self._seen = pictures
        if not self._until.reached(report_from_store(self._store)):
            return False
        self._tell(pictures)
        return True

    def _tell(self, enough_at: int | None) -> None:
        stopping = {"rule": str(self._until), "looks": self._looks, "enough_at": enough_at}
        self._store.write_json(STOPPING, stopping)


def cell_differences(report: Report) -> list[Estimate]:
    """What the rule is about: the total loss of every cell, or where a model has but one version, its accuracy."""
    rows = report.of_kind("condition")
    totals = [loss.difference for row in rows for loss in row.losses if loss.step in ("total", "engine")]
    other = [loss.difference for row in rows for loss in row.losses]
    return totals or other or [accuracy for row in rows for accuracy in row.accuracy.values()]


def half_width(estimate: Estimate) -> float:
    """The longer side of an interval."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return float("inf")
    return max(estimate.high - estimate.value, estimate.value - estimate.low)
