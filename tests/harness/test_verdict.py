"""Verdicts: every quantity is what the records say, and the three outcomes meet at the edges of the interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from harness.errors import HarnessError
from harness.estimate import Estimate
from harness.mce import ALEXNET_ERROR, CorruptionErrors
from harness.quantities import QUANTITIES, Evidence, Place
from harness.report.build import Report, report_from_store
from harness.rules import Rule
from harness.store import Store
from harness.verdict import (
    FAILED,
    PASSED,
    UNDECIDED,
    Check,
    Judgement,
    Verdict,
    check,
    check_finished,
    judge,
    outcome_of,
)

NOISES = ("gaussian_noise:3", "brightness:2", "resize:nearest")


@pytest.fixture(scope="module")
def report(finished: Path) -> Report:
    return report_from_store(Store(finished))


class Records:
    """The records of a run, read one by one without any of the report's code."""

    def __init__(self, report: Report, folder: Path) -> None:
        self._cells = {each["name"]: each["cells"] for each in report.identity["conditions"]}
        rows = Store(folder).query("select cell, sample, prediction, correct, top5 from records")
        self._rows = {(cell, sample): rest for cell, sample, *rest in rows}
        self.samples = sorted({sample for _, sample in self._rows})

    def column(self, condition: str, version: str, index: int) -> list[Any]:
        cell = self._cells[condition][f"ort-cpu:{version}"]
        return [self._rows[cell, sample][index] for sample in self.samples]

    def share(self, conditions: Sequence[str], version: str, index: int) -> float:
        values = [value for each in conditions for value in self.column(each, version, index)]
        return 100 * sum(values) / len(values)

    def changed(self, conditions: Sequence[str], before: str, after: str) -> float:
        pairs = [
            pair
            for each in conditions
            for pair in zip(self.column(each, before, 0), self.column(each, after, 0), strict=True)
        ]
        return 100 * sum(old != new for old, new in pairs) / len(pairs)


@pytest.mark.parametrize(("row", "conditions"), [("gaussian_noise:3", NOISES[:1]), ("all noises", NOISES)])
def test_accuracies_and_losses_are_those_of_the_records(
    report: Report, finished: Path, row: str, conditions: Sequence[str]
) -> None:
    records = Records(report, finished)

    def value(quantity: str, **where: str) -> float | None:
        estimate = QUANTITIES[quantity].read(Evidence(report), Place(row, "ort-cpu", **where))
        assert estimate.unit == QUANTITIES[quantity].unit
        assert estimate.n == 16
        assert estimate.value is not None
        assert (estimate.low or 0) <= estimate.value <= (estimate.high or 0)
        return estimate.value

    for version in ("fp32", "simulated", "integer"):
        assert value("accuracy", version=version) == pytest.approx(records.share(conditions, version, 1))
        assert value("top5", version=version) == pytest.approx(records.share(conditions, version, 2))
    for step, before, after in (("quantisation", "fp32", "simulated"), ("total", "fp32", "integer")):
        lost = records.share(conditions, before, 1) - records.share(conditions, after, 1)
        assert value("drop", step=step) == pytest.approx(lost)
        assert value("changed", step=step) == pytest.approx(records.changed(conditions, before, after))


def test_a_loss_is_a_positive_drop(report: Report) -> None:
    row = report.rows[0]
    loss = next(loss for loss in row.losses if loss.step == "total")
    lost = replace(loss, difference=Estimate(-0.03, -0.05, -0.02, 16, 0, "difference"))
    losing = replace(report, rows=(replace(row, losses=(lost,)),))
    drop = QUANTITIES["drop"].read(Evidence(losing), Place(row.name, "ort-cpu", step="total"))
    assert (drop.value, drop.low, drop.high) == pytest.approx((3.0, 2.0, 5.0))


def test_the_integer_share_is_that_of_the_certificate(report: Report) -> None:
    certificate = report.certificates["ort-cpu:integer"]
    macs = [(layer["macs"], layer["integer"]) for layer in certificate["layers"]]
    share = 100 * sum(macs for macs, integer in macs if integer) / sum(macs for macs, _ in macs)
    got = QUANTITIES["integer_share"].read(Evidence(report), Place(engine="ort-cpu"))
    assert got.value == got.low == got.high == pytest.approx(share)
    nothing = replace(report, certificates={"ort-cpu:integer": {**certificate, "integer_fraction": None}})
    verdict = judge((Rule("integer_share", at_least=50.0),), Evidence(nothing))
    assert verdict.outcome == UNDECIDED


def test_the_failed_share_counts_pictures_with_its_wilson_interval(report: Report) -> None:
    got = QUANTITIES["failed"].read(Evidence(replace(report, failed_pictures=3, pictures=200)), Place())
    assert (got.n, got.failed) == (200, 3)
    reference = binomtest(3, 200).proportion_ci(method="wilson")
    assert (got.value, got.low, got.high) == pytest.approx((1.5, 100 * reference.low, 100 * reference.high))
    stopped = replace(report, failed_pictures=3, pictures=200, stopping={"rule": "", "looks": [50, 100, 200]})
    assert (QUANTITIES["failed"].read(Evidence(stopped), Place()).high or 0) > (got.high or 0)


def test_corruption_errors_are_in_percent_of_alexnets(report: Report) -> None:
    errors = CorruptionErrors(
        {}, Estimate(0.7, 0.6, 0.8, 16, 0, "ratio to AlexNet"), Estimate(0.9, 0.8, 1.1, 16, 0, "ratio to AlexNet"), None
    )
    settings = [("clean", ""), *((noise, str(level)) for noise in ALEXNET_ERROR for level in range(1, 6))]
    identity = {
        **report.identity,
        "model": {**report.identity["model"], "classes": 1000},
        "conditions": [{"noise": noise, "setting": setting} for noise, setting in settings],
    }
    measured = replace(report, identity=identity, corruption_errors={"ort-cpu:integer": errors})
    rules = (Rule("mce", at_most=80.0), Rule("relative_mce", at_most=75.0))
    mce, relative = judge(rules, Evidence(measured)).judgements
    assert mce.checks[0].estimate.value == pytest.approx(70)
    assert relative.checks[0].estimate.high == pytest.approx(110)
    assert (mce.outcome, relative.outcome) == (PASSED, FAILED)


def estimate(low: float | None, value: float | None, high: float | None, n: int = 400) -> Estimate:
    return Estimate(value, low, high, n, 0, "points")


AT_MOST, AT_LEAST = (
    Rule("drop", noise="clean", at_most=1.0),
    Rule("accuracy", noise="clean", at_least=1.0),
)


@pytest.mark.parametrize(
    ("rule", "low", "high", "outcome"),
    [
        (AT_MOST, 0.0, 1.0, PASSED),
        (AT_MOST, 0.0, 1.0001, UNDECIDED),
        (AT_MOST, 1.0, 2.0, UNDECIDED),
        (AT_MOST, 1.0001, 2.0, FAILED),
        (AT_MOST, 1.0, 1.0, PASSED),
        (AT_LEAST, 1.0, 2.0, PASSED),
        (AT_LEAST, 0.9999, 2.0, UNDECIDED),
        (AT_LEAST, 0.0, 1.0, UNDECIDED),
        (AT_LEAST, 0.0, 0.9999, FAILED),
        (AT_LEAST, 1.0, 1.0, PASSED),
    ],
)
def test_outcomes_meet_at_the_bound_which_is_good_itself(rule: Rule, low: float, high: float, outcome: str) -> None:
    assert outcome_of(rule, estimate(low, (low + high) / 2, high)) == outcome


def test_without_an_estimate_nothing_is_decided() -> None:
    for nothing in (estimate(None, None, None, 0), estimate(None, 0.0, None, 1)):
        made = check(AT_MOST, Place("clean", "ort-cpu"), nothing)
        assert (made.outcome, made.pictures_needed) == (UNDECIDED, None)


@pytest.mark.parametrize(
    ("got", "needed"),
    [
        (estimate(-1.5, 0.5, 2.5), 6400),  # 2.0 has to become 0.5: sixteen times the pictures
        (estimate(-0.1, 1.5, 2.5), 4100),  # downwards 1.6 has to become 0.5: 10.24 times, in two digits
        (estimate(-1.0, 1.0, 3.0), None),  # the bound itself
        (estimate(-1.0, 0.0, 0.5), None),  # decided
    ],
)
def test_an_undecided_rule_says_how_many_pictures_would_decide_it(got: Estimate, needed: int | None) -> None:
    assert check(AT_MOST, Place("clean", "ort-cpu"), got).pictures_needed == needed


def verdict_of(*outcomes: str) -> Verdict:
    checks = [Check(Place("clean", "ort-cpu"), estimate(0, 0, 0), outcome, None) for outcome in outcomes]
    return Verdict(tuple(Judgement(AT_MOST, (each,)) for each in checks))


@pytest.mark.parametrize(
    ("outcomes", "whole"),
    [
        ((PASSED, PASSED), PASSED),
        ((PASSED, UNDECIDED), UNDECIDED),
        ((UNDECIDED, FAILED, PASSED), FAILED),
        ((FAILED,), FAILED),
    ],
)
def test_one_failure_fails_the_run_and_one_doubt_withholds_the_pass(outcomes: tuple[str, ...], whole: str) -> None:
    assert verdict_of(*outcomes).outcome == whole


def test_the_place_that_decides_comes_first(report: Report) -> None:
    rule = Rule("accuracy", noise="*", at_least=0.0)
    (judgement,) = judge((rule,), Evidence(report)).judgements
    lows = [check.estimate.low or 0.0 for check in judgement.checks]
    assert len(lows) == 4
    assert lows == sorted(lows)
    bound = 100 * min(row.accuracy["ort-cpu:integer"].high or 0 for row in report.of_kind("condition")) + 0.01
    (judgement,) = judge((replace(rule, at_least=bound),), Evidence(report)).judgements
    assert judgement.outcome == FAILED == judgement.checks[0].outcome
    assert judgement.checks[-1].outcome != FAILED


def test_a_verdict_without_rules_is_none(report: Report) -> None:
    with pytest.raises(HarnessError, match="at least one rule"):
        judge((), Evidence(report))


@pytest.mark.parametrize(
    ("measured", "stopping", "whole"),
    [
        (16, None, True),
        (12, None, False),
        (12, {"looks": [12, 16], "enough_at": None}, False),
        (12, {"looks": [12, 16], "enough_at": 12}, True),
    ],
)
def test_a_run_in_progress_is_not_judged(
    report: Report, measured: int, stopping: Mapping[str, Any] | None, whole: bool
) -> None:
    run = replace(report, pictures=measured, stopping=stopping)
    if whole:
        check_finished(run, "RUN")
    else:
        with pytest.raises(HarnessError, match="RUN holds 12 of 16 pictures; a verdict needs all of them"):
            check_finished(run, "RUN")
