"""Verdict: rules over estimates. A rule holds, is broken, or cannot be judged yet.

A rule is passed when the whole 95 % interval is on the good side of its bound, failed when the whole interval is on the
bad side, and undecided else. Intervals are not widened for the number of rules, because the two errors differ:

- To ship an engine that breaks a rule, that rule must have passed, whatever the others did. So the chance of it is at
  most 2.5 % with any number of rules (the intersection-union test, Berger 1982).
- To hold back an engine that keeps all rules, one of them has to fail, and each does so in at most 2.5 % of runs. So
  the chance grows with the number of rules, and is near that only for an engine that is close to every bound.

A correction would make the second error rarer and leave more engines undecided; it is for who needs it to ask for less.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from harness.errors import HarnessError
from harness.estimate import Estimate
from harness.quantities import Evidence, Place, grid_from_report
from harness.report.build import Report
from harness.rules import Rule, Rules, places

PASSED, FAILED, UNDECIDED = "passed", "failed", "undecided"
WORST_FIRST = (FAILED, UNDECIDED, PASSED)
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Check:
    """One rule at one place.

    Args:
        place: where it was read.
        estimate: the quantity there, in the rule's unit.
        outcome: `PASSED`, `FAILED` or `UNDECIDED`.
        pictures_needed: how many pictures would likely decide it, if the estimate stays where it is; ``None`` where it
            is decided, or where nobody can say.
    """

    place: Place
    estimate: Estimate
    outcome: str
    pictures_needed: int | None


@dataclass(frozen=True)
class Judgement:
    """One rule at all its places, the one that decides first."""

    rule: Rule
    checks: tuple[Check, ...]

    @property
    def outcome(self) -> str:
        """Failed where it failed anywhere, else undecided where it is so anywhere."""
        return self.checks[0].outcome

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "title": self.rule.title,
            "rule": self.rule.describe(),
            "unit": self.rule.kind.unit,
            "outcome": self.outcome,
            "checks": [asdict(check) for check in self.checks],
        }


@dataclass(frozen=True)
class Verdict:
    """What the rules say of a run."""

    judgements: tuple[Judgement, ...]

    @property
    def outcome(self) -> str:
        """Failed where a rule failed, else undecided where one is, else passed."""
        return next(outcome for outcome in WORST_FIRST if self.count(outcome))

    def count(self, outcome: str) -> int:
        """How many rules came out so."""
        return sum(judgement.outcome == outcome for judgement in self.judgements)

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        rules = [judgement.describe() for judgement in self.judgements]
        return {"schema_version": SCHEMA_VERSION, "outcome": self.outcome, "rules": rules}


def judge(rules: Rules, evidence: Evidence) -> Verdict:
    """Hold a run against rules.

    Raises:
        HarnessError: a rule is about something that the run has not measured.
    """
    if not rules:
        raise HarnessError("a verdict needs at least one rule")
    grid = grid_from_report(evidence.report, against=evidence.baseline is not None)
    judgements = []
    for rule in rules:
        checks = [check(rule, place, rule.kind.read(evidence, place)) for place in places(rule, grid)]
        checks.sort(key=lambda each: (WORST_FIRST.index(each.outcome), _room(rule, each.estimate)))
        judgements.append(Judgement(rule, tuple(checks)))
    return Verdict(tuple(judgements))


def check(rule: Rule, place: Place, estimate: Estimate) -> Check:
    """Hold one estimate against one rule."""
    outcome = outcome_of(rule, estimate)
    return Check(place, estimate, outcome, _pictures_needed(rule, estimate) if outcome == UNDECIDED else None)


def outcome_of(rule: Rule, estimate: Estimate) -> str:
    """On which side of the bound the interval is; the bound itself is good."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return UNDECIDED
    worst, best = (estimate.low, estimate.high) if rule.at_most is None else (-estimate.high, -estimate.low)
    bound = rule.bound if rule.at_most is None else -rule.bound
    if worst >= bound:
        return PASSED
    return FAILED if best < bound else UNDECIDED


def check_finished(report: Report, folder: str) -> None:
    """See that a run measured all that it was to measure, or ended by its rule at a planned look.

    Raises:
        HarnessError: it did not. A look at a run in progress is not planned, and whoever looks until the verdict
            pleases is wrong more often than the intervals say.
    """
    ended = report.stopping is not None and report.stopping["enough_at"] is not None
    if report.pictures < report.planned_pictures and not ended:
        raise HarnessError(
            f"{folder} holds {report.pictures:,} of {report.planned_pictures:,} pictures; a verdict needs all of them, "
            f"or a run that --until ended. Repeat its command, which continues it (or merge its shards)"
        )


def _room(rule: Rule, estimate: Estimate) -> float:
    """How far the bad end of the interval is on the good side of the bound; the less, the more it matters."""
    if estimate.low is None or estimate.high is None:
        return -math.inf
    return estimate.low - rule.bound if rule.at_most is None else rule.bound - estimate.high


def _pictures_needed(rule: Rule, estimate: Estimate) -> int | None:
    """Where the interval would just reach the bound, its width shrinking with the root of the number of pictures."""
    if estimate.value is None or estimate.low is None or estimate.high is None or estimate.value == rule.bound:
        return None
    side = estimate.high - estimate.value if estimate.value < rule.bound else estimate.value - estimate.low
    return _two_digits_up(estimate.n * (side / (estimate.value - rule.bound)) ** 2)


def _two_digits_up(number: float) -> int:
    """Rounded up to two digits: more would promise what nobody knows.

    >>> _two_digits_up(1234.5)
    1300
    """
    step: int = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return math.ceil(number / step) * step
