"""Until: a rule that ends a run as soon as it has said enough."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.errors import HarnessError
from harness.estimate import Estimate
from harness.looks import looks
from harness.quantities import Evidence, Grid
from harness.report.build import Report, report_from_store
from harness.rules import DEFAULT_RULES, Rules, check_rules, rules_from_tables
from harness.slices import Slice
from harness.store import STOPPING, Store, first_difference, part_name
from harness.verdict import UNDECIDED, judge

BOUND = re.compile(r"\s*(ci|drop)\s*<\s*(\d+(?:\.\d*)?)\s*")
GATE = "gate"
FORMS = {
    "ci<POINTS": "every paired difference is known to ± POINTS",
    "drop<POINTS": "it is certain that every cell drops by less than POINTS, or that one drops by more",
    GATE: "every rule of --rules has passed, or one has failed",
}


class StoppingRule(Protocol):
    """What may end a run."""

    def check(self, grid: Grid) -> None:
        """See that the run will measure what the rule is about.

        Raises:
            HarnessError: it will not.
        """

    def reached(self, report: Report) -> bool:
        """Whether a report whose intervals are those of one of the planned looks says enough."""

    def describe(self) -> dict[str, Any]:
        """What the run's folder keeps of it, as JSON; "rule" is its short form."""


@dataclass(frozen=True)
class Until:
    """One number ends the run.

    Args:
        quantity: "ci" or "drop".
        points: the bound, in percentage points.
    """

    quantity: str
    points: float

    def __str__(self) -> str:
        return f"{self.quantity}<{self.points:g}"

    def check(self, grid: Grid) -> None:
        """Every run has differences or accuracies."""

    def reached(self, report: Report) -> bool:
        """Whether all numbers are known so well, or the answer is certain."""
        differences = cell_differences(report)
        if any(each.low is None or each.high is None or each.value is None for each in differences):
            return False
        if self.quantity == "ci":
            return all(half_width(each) < self.points / 100 for each in differences)
        bound = -self.points / 100
        certain = all(each.low is not None and each.low > bound for each in differences)
        return certain or any(each.high is not None and each.high < bound for each in differences)

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return {"rule": str(self)}


@dataclass(frozen=True)
class UntilGate:
    """The verdict ends the run: every rule has passed, or one has failed."""

    rules: Rules = DEFAULT_RULES

    def check(self, grid: Grid) -> None:
        """Every rule has its place in the run."""
        check_rules(self.rules, grid)

    def reached(self, report: Report) -> bool:
        """Whether the verdict is certain."""
        return judge(self.rules, Evidence(report)).outcome != UNDECIDED

    def describe(self) -> dict[str, Any]:
        """As JSON, with the rules."""
        count = f"{len(self.rules)} rule{'' if len(self.rules) == 1 else 's'}"
        return {"rule": f"{GATE} ({count})", "rules": [rule.describe() for rule in self.rules]}


def until_from_text(text: str) -> StoppingRule:
    """Read ``ci<0.5``, ``drop<1`` or ``gate``, which judges by `DEFAULT_RULES`.

    Raises:
        HarnessError: it is none of these.
    """
    if text.strip() == GATE:
        return UntilGate()
    found = BOUND.fullmatch(text)
    if not found or not float(found[2]):
        forms = "; ".join(f"{form}: {meaning}" for form, meaning in FORMS.items())
        raise HarnessError(f"expected a rule such as ci<0.5 after --until ({forms}); got {text!r}")
    return Until(found[1], float(found[2]))


def stored_rules(store: Store) -> Rules | None:
    """The rules that may end, or have ended, the run in this folder; ``None`` where there are none."""
    tables = store.read_json(STOPPING).get("rules") if store.has(STOPPING) else None
    return rules_from_tables(tables, str(store.folder / STOPPING)) if tables else None


def rules_difference(old: Rules, new: Rules) -> str:
    """The first difference between two lists of rules; "" where they are equal."""
    there, here = ({f"rule {n}": rule.describe() for n, rule in enumerate(rules, 1)} for rules in (old, new))
    return first_difference(there, here)


class Lookout:
    """Looks at a run at the planned numbers of pictures, and at no others: not even where it was interrupted.

    A part is the least that can be looked at, so a look happens at the end of the part that it falls into.

    Args:
        until: the rule; ``None`` never has enough.
        store: the run.
        slices: of the whole run, in order.
        engines: every one of them writes a part for every slice.
    """

    def __init__(
        self, until: StoppingRule | None, store: Store, slices: Sequence[Slice], engines: Collection[str]
    ) -> None:
        self._until, self._store, self._slices, self._engines = until, store, slices, engines
        planned = looks(slices[-1].end)
        self._due = {each.end for each in slices if any(each.start < look <= each.end for look in planned)}
        if until is None:
            return
        told = {**until.describe(), "looks": planned, "enough_at": None}
        there = store.read_json(STOPPING) if store.has(STOPPING) else {}
        if {**there, "enough_at": None} != told:
            store.write_json(STOPPING, told)

    def enough(self) -> bool:
        """Whether a look is due at what the store holds, and says enough."""
        pictures = self._pictures()
        if self._until is None or pictures not in self._due or not self._until.reached(report_from_store(self._store)):
            return False
        self._store.write_json(STOPPING, {**self._store.read_json(STOPPING), "enough_at": pictures})
        return True

    def _pictures(self) -> int:
        """How many pictures, from the first on, are complete; 0 where the store holds others too."""
        there = {part.name for part in self._store.parts()}
        whole = [all(part_name(each.index, engine) in there for engine in self._engines) for each in self._slices]
        complete = [*whole, False].index(False)
        if not complete or len(there) != complete * len(self._engines):
            return 0
        last: int = self._slices[complete - 1].end
        return last


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
