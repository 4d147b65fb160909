"""Until: a run ends when its rule is met, and looking often does not make it wrong more often."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.estimate import paired_difference, scaled
from harness.extent import Extent
from harness.looks import FIRST_LOOK, GROWTH, looks, z_from_looks
from harness.progress import Progress
from harness.quantities import Grid
from harness.recipe import Recipe
from harness.report.build import Report
from harness.report.text import headline
from harness.rules import DEFAULT_RULES, Rule
from harness.samples import SYNTHETIC
from harness.session import execute
from harness.slices import slices_from_samples
from harness.speed import Speed
from harness.store import STOPPING, Store, part_name
from harness.until import Lookout, Until, UntilGate, stored_rules, until_from_text
from harness.verdict import PASSED, UNDECIDED, outcome_of
from tests.harness.conftest import copy_pictures
from tests.harness.test_resume import rows_of


@given(st.integers(1, 2_000_000))
def test_looks_grow_and_end_with_the_run(total: int) -> None:
    planned = looks(total)
    assert planned[-1] == total
    assert all(first < second for first, second in pairwise(planned))
    assert all(second <= first * GROWTH + 1 for first, second in pairwise(planned))
    assert planned[0] == min(FIRST_LOOK, total)


def test_all_looks_together_are_wrong_in_fewer_than_one_run_in_twenty_and_naive_ones_are_not() -> None:
    draw = np.random.default_rng(0)
    total, truth, runs = 3000, -0.02, 400
    planned = looks(total)
    wrong = {"naive": 0, "planned": 0}
    for _ in range(runs):
        before = (draw.random(total) < 0.8).astype(np.float64)
        lost = draw.random(total)
        after = np.where(before == 1, lost >= 0.05, lost < 0.10).astype(np.float64)  # 0.8 * 0.05 lost, 0.2 * 0.1 won
        for name, z in (("naive", 1.96), ("planned", z_from_looks(len(planned)))):
            seen = (paired_difference(before[:n], after[:n], 0, z) for n in planned)
            wrong[name] += any(not (each.low or 0.0) <= truth <= (each.high or 0.0) for each in seen)
    assert wrong["planned"] / runs < 0.05
    assert wrong["naive"] / runs > 0.10


@pytest.mark.parametrize(("sequential", "z_of"), [(True, z_from_looks), (False, lambda _: 1.96)])
def test_a_gate_that_stops_early_ships_a_bad_engine_as_seldom_as_one_look_would(
    sequential: bool, z_of: Callable[[int], float]
) -> None:
    """Two rules; the engine loses exactly the bound of one, the worst engine that is easiest to ship by luck."""
    draw = np.random.default_rng(1)
    total, runs = 3000, 400
    planned = looks(total)
    z = z_of(len(planned))
    lenient, strict = (Rule("drop", noise="clean", at_most=bound) for bound in (6.0, 2.0))
    shipped = 0
    for _ in range(runs):
        before = (draw.random(total) < 0.8).astype(np.float64)
        lost = draw.random(total)
        after = np.where(before == 1, lost >= 0.05, lost < 0.10).astype(np.float64)  # loses 2 points
        for n in planned:
            drop = scaled(paired_difference(before[:n], after[:n], 0, z), -100, "points")
            outcomes = {outcome_of(rule, drop) for rule in (lenient, strict)}
            if UNDECIDED not in outcomes:
                shipped += outcomes == {PASSED}
                break
    assert (shipped / runs < 0.025) == sequential


@pytest.mark.parametrize("text", ["ci", "ci<", "ci>1", "ci<0", "speed<1", "ci<-1", "gate<1"])
def test_another_rule_is_refused(text: str) -> None:
    with pytest.raises(HarnessError, match="expected a rule such as"):
        until_from_text(text)


def test_a_rule_is_read() -> None:
    assert until_from_text(" ci < 0.50 ") == Until("ci", 0.5)
    assert str(until_from_text("drop<2")) == "drop<2"
    assert until_from_text("gate") == UntilGate(DEFAULT_RULES)


@pytest.fixture
def many(small: Recipe, tmp_path: Path) -> Recipe:
    """192 pictures under two conditions, so that there are looks before the end."""
    data = copy_pictures(Path(replace(small).data), tmp_path / "many", per_class=1)
    for number in range(12):
        for picture in list(data.glob("*/*.jpg")) + list(data.glob("*/*.png")):
            if "-copy" not in picture.name:
                content = picture.read_bytes()
                picture.with_name(f"{picture.stem}-copy{number}{picture.suffix}").write_bytes(content)
    return replace(small, data=str(data), noise=("clean", "brightness:5"), engines=("ort-cpu",))


def test_a_run_ends_when_its_rule_is_met_and_goes_on_without_it(
    many: Recipe, run_recipe: Callable[..., Report], tmp_path: Path
) -> None:
    speed = Speed(workers=0, callers=2)
    early = execute(many, tmp_path / "early", speed, Progress(), Extent(until_from_text("ci<30")))
    assert early.stopping is not None
    assert early.stopping["enough_at"] == early.pictures < early.planned_pictures
    assert f"was met after {early.pictures} of" in " ".join(headline(early))
    again = execute(many, tmp_path / "early", speed, Progress(), Extent(until_from_text("ci<30")))
    assert again.pictures == early.pictures
    whole = execute(many, tmp_path / "early", speed, Progress())
    assert whole.pictures == whole.planned_pictures
    assert whole.stopping is None
    assert not (tmp_path / "early" / STOPPING).exists()
    run_recipe(many, "whole", speed)
    assert rows_of(tmp_path / "early").equals(rows_of(tmp_path / "whole"))


def test_a_rule_that_is_never_met_measures_everything_with_wider_intervals(many: Recipe, tmp_path: Path) -> None:
    report = execute(
        many, tmp_path / "run", Speed(workers=0, callers=2), Progress(), Extent(until_from_text("ci<0.01"))
    )
    assert report.pictures == report.planned_pictures
    assert report.stopping is not None
    assert report.stopping["enough_at"] is None
    widened = report.rows[0].accuracy["ort-cpu:fp32"]
    Store(tmp_path / "run").remove(STOPPING)
    plain = execute(many, tmp_path / "run", Speed(workers=0, callers=2), Progress()).rows[0].accuracy["ort-cpu:fp32"]
    assert widened.value == plain.value
    assert (widened.low or 0) < (plain.low or 0)


def test_a_drop_is_certain_in_either_direction(many: Recipe, tmp_path: Path) -> None:
    report = execute(many, tmp_path / "run", Speed(workers=0, callers=2), Progress())
    assert Until("drop", 90.0).reached(report)  # nothing loses so much
    assert not Until("drop", 0.5).reached(report)  # and nobody knows so well
    loss = report.rows[0].losses[0]
    lost = replace(loss, step="total", difference=replace(loss.difference, value=-0.3, low=-0.4, high=-0.2))
    failing = replace(report, rows=(replace(report.rows[0], losses=(lost,)),))
    assert Until("drop", 10.0).reached(failing)


LENIENT = (Rule("drop", noise="*", at_most=30.0), Rule("integer_share", at_least=50.0))


def test_a_gate_ends_the_run_at_a_certain_verdict_and_keeps_its_rules(
    many: Recipe, run_recipe: Callable[..., Report], tmp_path: Path
) -> None:
    speed = Speed(workers=0, callers=2)
    early = execute(many, tmp_path / "early", speed, Progress(), Extent(UntilGate(LENIENT)))
    assert early.stopping is not None
    assert early.stopping["enough_at"] == early.pictures < early.planned_pictures
    assert f"The rule gate (2 rules) was met after {early.pictures} of" in " ".join(headline(early))
    assert stored_rules(Store(tmp_path / "early")) == LENIENT
    schema = json.loads((files("harness.report") / "schema.json").read_text())
    jsonschema.validate(json.loads((tmp_path / "early" / "report.json").read_text()), schema)
    run_recipe(many, "whole", speed)
    prefix = rows_of(tmp_path / "early")
    assert prefix.equals(rows_of(tmp_path / "whole").slice(0, prefix.num_rows))


def test_one_broken_rule_ends_the_run_whatever_the_others_need(many: Recipe, tmp_path: Path) -> None:
    impossible = Rule("accuracy", noise="clean", at_least=100.0, version="fp32", name="never wrong")
    hopeless = Rule("accuracy", noise="brightness", at_least=99.9)
    undecidable = Rule("drop", noise="clean", at_most=0.001)
    gate = UntilGate((impossible, hopeless, undecidable))
    report = execute(many, tmp_path / "run", Speed(workers=0, callers=2), Progress(), Extent(gate))
    assert report.pictures < report.planned_pictures
    assert gate.reached(report)
    assert not UntilGate((undecidable,)).reached(report)


def test_a_run_that_goes_on_under_other_rules_says_so(
    many: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speed = Speed(workers=0, callers=2)
    execute(many, tmp_path / "run", speed, Progress(), Extent(UntilGate(LENIENT)))
    execute(many, tmp_path / "run", speed, Progress(), Extent(UntilGate(LENIENT)))
    assert capsys.readouterr().err == ""
    stricter = (replace(LENIENT[0], at_most=29.0), LENIENT[1])
    execute(many, tmp_path / "run", speed, Progress(), Extent(UntilGate(stricter)))
    assert "begun under other rules, rule 1.at_most (there 30.0, now 29.0)" in capsys.readouterr().err
    assert stored_rules(Store(tmp_path / "run")) == stricter


def test_a_rule_without_a_place_in_the_plan_costs_nothing(many: Recipe, tmp_path: Path) -> None:
    for rule, message in (
        (Rule("drop", noise="fog", at_most=1.0), "no noise in this run 'fog'"),
        (Rule("change", noise="clean", at_least=0.0), "needs a run to compare with"),
        (Rule("mce", at_most=80.0), "needs a model of ImageNet's 1,000 classes; this one has 16"),
    ):
        with pytest.raises(HarnessError, match=message):
            execute(many, tmp_path / "run", Speed(), Progress(), Extent(UntilGate((rule,))))
    assert not (tmp_path / "run").exists()


class Looking:
    """A rule, as a double, that is never met and counts how often it is asked."""

    def __init__(self) -> None:
        self.looks = 0

    def check(self, grid: Grid) -> None:
        """It is about nothing."""

    def reached(self, report: object) -> bool:
        self.looks += 1
        return False

    def describe(self) -> dict[str, object]:
        return {"rule": "never"}


@given(st.integers(10, 400), st.integers(1, 2), st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_interruption_adds_a_look(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    pictures: int,
    engines: int,
    data: st.DataObject,
) -> None:
    """A session ends behind every part. In the end no look was at another number of pictures than planned."""
    at: set[int] = set()
    monkeypatch.setattr("harness.until.report_from_store", lambda store: at.add(len(store.parts())))
    store, names = Store(tmp_path_factory.mktemp("run")), ["a", "b"][:engines]
    (store.folder / "parts").mkdir()
    slices = slices_from_samples([SYNTHETIC] * pictures, 1)
    for piece in slices:
        for name in names:
            (store.folder / "parts" / part_name(piece.index, name)).touch()
            if data.draw(st.booleans()):
                Lookout(Looking(), store, slices, names).enough()
        Lookout(Looking(), store, slices, names).enough()
    seen = {slices[count // engines - 1].end for count in at}
    assert len(seen) <= len(looks(pictures))
    assert all(any(end - 64 < look <= end for look in looks(pictures)) for end in seen)
    assert pictures in seen


def test_a_run_with_a_hole_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.until.report_from_store", lambda store: None)
    store, rule, slices = Store(tmp_path), Looking(), slices_from_samples([SYNTHETIC] * 60, 1)
    (store.folder / "parts").mkdir()
    for piece in slices:
        (store.folder / "parts" / part_name(piece.index, "a")).touch()
    lookout = Lookout(rule, store, slices, ["a"])
    (store.folder / "parts" / part_name(13, "a")).rename(tmp_path / "lost")
    assert not lookout.enough()
    assert rule.looks == 0
    (tmp_path / "lost").rename(store.folder / "parts" / part_name(13, "a"))
    lookout.enough()
    assert rule.looks == 1


def test_repeating_a_run_that_its_rule_has_ended_changes_nothing(many: Recipe, tmp_path: Path) -> None:
    recipe = replace(many, limit=40)
    for _ in range(2):
        report = execute(recipe, tmp_path / "run", Speed(0, 2), Progress(), Extent(until_from_text("ci<60")))
        assert report.stopping is not None
        assert report.stopping["enough_at"] == 40
