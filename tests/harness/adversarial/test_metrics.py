"""Metrics of attacked pictures, on answers whose metrics were worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from harness.adversarial.metrics import _gaps, _robustness, on_source
from harness.adversarial.sets import AdversarialSet
from harness.report.cells import Cell

LABEL = 7


def cell(answers: str) -> Cell:
    """One letter per picture: right, wrong, or failed."""
    n = len(answers)
    correct = np.array([letter == "r" for letter in answers], float)
    prediction = np.array([{"r": LABEL, "w": 0, "f": -1}[letter] for letter in answers], np.int32)
    return Cell(np.arange(n), correct, correct, prediction, {})


CLEAN = {"ort-cpu:fp32": cell("rrrrrrrw"), "ort-cpu:integer": cell("rrrrrrwr")}
#                                 without an attack both read pictures 0 to 5 right
ONE = {"ort-cpu:fp32": cell("wwrrrrrw"), "ort-cpu:integer": cell("wrwrrrwr")}
TWO = {"ort-cpu:fp32": cell("rrwrrrrw"), "ort-cpu:integer": cell("rrrfrrww")}
# an attack on another model turns the one misread picture of each round
TURNED = {"ort-cpu:fp32": cell("wwrrrrrr"), "ort-cpu:integer": cell("wrwrrrrr")}


def test_robust_accuracy_counts_all_pictures_and_ar_those_that_were_right_before() -> None:
    found = _robustness(CLEAN, {name: [each] for name, each in ONE.items()})
    fp32, integer = found["ort-cpu:fp32"], found["ort-cpu:integer"]
    assert (fp32.robust.value, fp32.robust.n) == (5 / 8, 8)
    assert (fp32.conditional.value, fp32.conditional.n) == (5 / 7, 7)
    assert (fp32.common.value, fp32.common.n) == (4 / 6, 6)
    assert (integer.robust.value, integer.conditional.n) == (5 / 8, 7)
    assert integer.common.value == 4 / 6


def test_a_picture_survives_the_worst_case_only_if_it_is_right_in_every_set() -> None:
    together = {name: [ONE[name], TWO[name]] for name in CLEAN}
    found = _robustness(CLEAN, together)
    assert found["ort-cpu:fp32"].robust.value == 4 / 8  # 3, 4, 5 and 6
    integer = found["ort-cpu:integer"]
    assert integer.robust.value == 3 / 8  # 1, 4 and 5; picture 3 failed, which is wrong and counted
    assert integer.robust.failed == 1
    assert integer.common.failed == 1


def test_a_picture_that_was_misread_before_has_not_survived_an_attack_that_turns_it_round() -> None:
    found = _robustness(CLEAN, {name: [each] for name, each in TURNED.items()})
    assert found["ort-cpu:fp32"].robust.value == 5 / 8  # 2 to 6, and not 7
    assert found["ort-cpu:integer"].robust.value == 5 / 8  # 1, 3, 4, 5 and 7, and not 6
    gap = _gaps(CLEAN, {name: [each] for name, each in TURNED.items()})["ort-cpu"]
    assert gap.difference.value == 0
    assert (gap.only_fp32_falls, gap.only_integer_falls) == (1, 1)


def test_versions_disagree_where_only_one_of_them_falls() -> None:
    gap = _gaps(CLEAN, {name: [each] for name, each in ONE.items()})["ort-cpu"]
    assert (gap.only_fp32_falls, gap.only_integer_falls) == (1, 1)
    assert gap.difference.value == 0
    worst = _gaps(CLEAN, {name: [ONE[name], TWO[name]] for name in CLEAN})["ort-cpu"]
    assert (worst.only_fp32_falls, worst.only_integer_falls) == (1, 1)
    assert worst.difference.value == pytest.approx(-1 / 8)
    assert worst.difference.failed == 1


def entry(clean: int, attacked: int, stored: int, queries: int, broken_at: int | None) -> dict[str, object]:
    return {
        "label": LABEL,
        "clean": clean,
        "attacked": attacked,
        "stored": stored,
        "stored_distance": 0.01,
        "queries": queries,
        "broken_at": broken_at,
    }


def test_the_source_is_judged_before_and_after_rounding_and_queries_by_the_pictures_that_fell(tmp_path) -> None:  # type: ignore[no-untyped-def]
    entries = {
        "misread": entry(0, 0, LABEL, 1, 1),  # rounding turns it round, and it has not survived
        "fell": entry(LABEL, 3, 3, 40, 40),
        "fell late": entry(LABEL, 3, 3, 60, 60),
        "came back by rounding": entry(LABEL, 3, LABEL, 10, 10),
        "stands": entry(LABEL, LABEL, LABEL, 100, None),
        "lost": {"label": LABEL, "error": "read"},
    }
    found = on_source(AdversarialSet(tmp_path, {"norm": "linf"}, entries))
    assert (found.clean.value, found.attacked.value, found.stored.value) == (4 / 6, 1 / 6, 2 / 6)
    assert found.clean.failed == 1
    assert found.total_queries == 211
    assert found.median_queries == 40
    assert found.queries is not None
    assert found.queries.value == pytest.approx(211 / 5)
