"""Lanes: a slow engine holds no other back, and what is measured does not depend on who goes with whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines import ENGINES, Entry
from harness import lanes
from harness.extent import Extent
from harness.lanes import grouped, take_turns
from harness.plan import plan
from harness.progress import Advance, Progress
from harness.recipe import Recipe
from harness.report.build import report_from_store
from harness.report.cells import Cell, Seen, seen_by_all
from harness.report.write import write_reports
from harness.run import AT_WORK
from harness.session import execute
from harness.slices import Slice
from harness.speed import Choice, Speed, Staff
from harness.store import Store
from harness.until import Until
from tests.harness import doubles
from tests.harness.test_resume import rows_of

INLINE, WORKERS = Staff(0, 2), Staff(2, 1)
NEVER = Advance(None, None)
TOGETHER = Extent(Until("ci", 0.001))  # a rule that is never met keeps all engines together


def test_every_staff_is_tried_and_the_fastest_goes_on() -> None:
    choice = Choice((INLINE, WORKERS))
    assert choice.staff(10_000) == INLINE
    choice.tell(INLINE, 10.0)
    assert choice.staff(10_000) == WORKERS
    assert choice.on_trial(WORKERS)
    choice.tell(WORKERS, 20.0)
    assert choice.staff(10_000) == WORKERS
    assert not choice.on_trial(WORKERS)
    choice.tell(WORKERS, 5.0)  # it was only lucky
    assert choice.staff(10_000) == INLINE
    assert [trial.pictures_per_second for trial in choice.trials] == [10.0, 20.0]


def test_a_run_that_is_nearly_over_tries_nobody_else() -> None:
    choice = Choice((INLINE, WORKERS))
    choice.tell(INLINE, 10.0)
    assert choice.staff(149) == INLINE
    assert choice.staff(150) == WORKERS


class DoubleLane:
    """A lane that takes as long as it says, without measuring anything."""

    def __init__(self, name: str, slices: int, seconds: float, told: list[str]) -> None:
        self.name, self.seconds, self.told = name, seconds, told
        self.left = [Slice(index, index, ()) for index in range(slices)]
        self.spent_seconds = 0.0

    def turn(self, seconds: float, enough: Callable[[], bool], advance: Advance) -> bool:
        del enough, advance
        while self.left and seconds > 0:
            self.left.pop()
            self.told.append(self.name)
            self.spent_seconds += self.seconds
            seconds -= self.seconds
        return False


def test_a_slow_lane_takes_no_more_than_its_share_of_the_time() -> None:
    told: list[str] = []
    fast, slow = DoubleLane("fast", 100, 1.0, told), DoubleLane("slow", 50, 40.0, told)
    take_turns([fast, slow], lambda: False, NEVER)  # type: ignore[list-item]  # doubles
    assert (told.count("fast"), told.count("slow")) == (100, 50)
    by_then = told[: len(told) - told[::-1].index("fast")]
    assert by_then.count("slow") == 2  # 80 seconds, when the fast one had its 100
    assert told[:21] == ["fast"] * 20 + ["slow"]


class DoubleLine:
    """A line that takes as long as it says."""

    def __init__(self, engine: str, seconds: float) -> None:
        self.engine, self.seconds = engine, seconds


@pytest.mark.parametrize(
    ("seconds", "groups"),
    [
        ({"a": 1.0}, [["a"]]),
        ({"a": 1.0, "b": 3.0}, [["a", "b"]]),
        ({"b": 9.0, "a": 1.0}, [["a"], ["b"]]),
        ({"a": 99.0}, [["a"]]),
        ({"a": 99.0, "b": 100.0}, [["a", "b"]]),
        ({"a": 1.0, "b": 1.5, "c": 15.0, "d": 16.0, "e": 999.0}, [["a", "b"], ["c", "d"], ["e"]]),
    ],
)
def test_an_engine_that_is_far_slower_goes_by_itself(
    small: Recipe, monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], groups: list[list[str]]
) -> None:
    monkeypatch.setattr(lanes, "_seconds_of_a_batch", lambda lines, preparation: (1.0, seconds))
    lines = [DoubleLine(engine, each) for engine, each in seconds.items()]
    got = grouped(lines, plan(small).preparation(4))  # type: ignore[arg-type]  # doubles
    assert [[line.engine for line in group] for group in got] == groups


@pytest.fixture
def two_engines(small: Recipe, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A fast engine and a slow one, and turns that are short enough to see."""
    certify = "engines.ort_certificate:certify_cpu"
    for name in ("Slow", "DoubleEngine"):
        row = Entry(f"tests.harness.doubles:{name}", "a double", "cpu", certify, "ort-cpu")
        monkeypatch.setitem(ENGINES, name.lower(), row)
    monkeypatch.setattr(lanes, "TURN_SECONDS", 0.1)
    return replace(small, engines=("slow:fp32", "doubleengine:fp32"), noise=("clean", "brightness:1"))


def test_a_slow_engine_does_not_hold_a_fast_one_back(two_engines: Recipe, tmp_path: Path) -> None:
    execute(two_engines, tmp_path / "run", Speed(0, 1), Progress())
    parts = sorted(Store(tmp_path / "run").parts(), key=lambda part: part.stat().st_mtime_ns)
    order = [part.stem.partition("-")[2] for part in parts]
    assert len(order) == 8
    assert order.index("slow") < 4, "the slow engine had no turn before the fast one was done"
    assert order[-2:] == ["slow", "slow"], "the fast engine had to wait"
    execute(two_engines, tmp_path / "together", Speed(0, 1), Progress(), TOGETHER)
    assert rows_of(tmp_path / "run").equals(rows_of(tmp_path / "together"))
    timing = report_from_store(Store(tmp_path / "run")).timing
    assert timing["pictures_per_second"] == pytest.approx(16 / timing["wall_seconds"])


def test_only_the_engine_whose_part_is_missing_is_asked_again(two_engines: Recipe, tmp_path: Path) -> None:
    execute(two_engines, tmp_path / "run", Speed(0, 2), Progress())
    whole, store = rows_of(tmp_path / "run"), Store(tmp_path / "run")
    lost = [part for part in store.parts() if part.name in ("000001-slow.parquet", "000003-doubleengine.parquet")]
    before = {part: part.stat().st_mtime_ns for part in store.parts()}
    for part in lost:
        part.unlink()
    execute(two_engines, tmp_path / "run", Speed(0, 2), Progress())
    assert rows_of(tmp_path / "run").equals(whole)
    assert {part for part in store.parts() if part.stat().st_mtime_ns != before[part]} == set(lost)


def test_engines_that_go_together_tell_their_time_once(two_engines: Recipe, tmp_path: Path) -> None:
    execute(two_engines, tmp_path / "run", Speed(0, 2), Progress(), TOGETHER)
    assert len(Store(tmp_path / "run").parts()) == 8
    assert len(Store(tmp_path / "run").timings()) == 4


def test_of_engines_that_go_together_only_one_is_asked_again(two_engines: Recipe, tmp_path: Path) -> None:
    execute(two_engines, tmp_path / "run", Speed(0, 2), Progress(), TOGETHER)
    (tmp_path / "run" / "parts" / "000001-slow.parquet").unlink()
    doubles.calls.clear()
    execute(two_engines, tmp_path / "run", Speed(0, 2), Progress(), TOGETHER)
    assert sum(doubles.calls) == 4 * 2, "4 pictures under 2 conditions, by the engine that lacked them"


def test_pictures_that_one_engine_has_not_seen_do_not_count_as_failed() -> None:
    def cell(samples: list[int], failed: list[int]) -> Cell:
        values, prediction = np.zeros(len(samples)), np.array([-1 if each in failed else 5 for each in samples])
        return Cell(np.array(samples), values, values, prediction.astype(np.int32), {})

    assert seen_by_all([cell([1, 2, 5, 8], [2, 8]), cell([1, 2, 3, 4, 5], [3, 5])]) == Seen(3, 2)
    assert seen_by_all([cell([], []), cell([1], [1])]) == Seen(0, 0)


def test_behind_a_session_that_was_ended_by_force_pictures_are_prepared_in_processes(
    small: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(small, engines=("ort-cpu:fp32",), noise=("clean",))
    for name in ("clean", "killed"):
        folder = tmp_path / name
        if name == "killed":
            folder.mkdir()
            (folder / AT_WORK).touch()
        execute(recipe, folder, Speed(), Progress())
        staffs = report_from_store(Store(folder)).timing["staffs"]
        assert all((staff["workers"] > 0) == (name == "killed") for staff in staffs)
        assert ("was ended by force" in capfd.readouterr().err) == (name == "killed")
        assert not (folder / AT_WORK).exists()


def test_an_interrupted_session_was_not_ended_by_force(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.run.take_turns", interrupt)
    with pytest.raises(KeyboardInterrupt):
        execute(replace(small, engines=("ort-cpu:fp32",)), tmp_path / "run", Speed(), Progress())
    assert not (tmp_path / "run" / AT_WORK).exists()


@pytest.mark.parametrize("slices", [(), (0, 2)])
def test_a_run_in_which_one_engine_is_behind_is_reported(
    small: Recipe, tmp_path: Path, slices: tuple[int, ...]
) -> None:
    """Between engines only pictures count that both have seen; an engine that has seen none has no estimate."""
    folder = tmp_path / "run"
    execute(replace(small, engines=("ort-cpu", "openvino")), folder, Speed(0, 2), Progress())
    whole, store = report_from_store(Store(folder)), Store(folder)
    for part in store.parts():
        if "openvino" in part.name and int(part.name[:6]) not in slices:
            part.unlink()
    report = report_from_store(store)
    write_reports(report, store)
    seen = 4 * len(slices)
    assert report.pictures == seen
    for row, before in zip(report.rows, whole.rows, strict=True):
        for name, estimate in row.accuracy.items():
            assert estimate.n == (seen if name.startswith("openvino") else 16)
            assert (estimate.value is None) == (not estimate.n)
        assert row.losses_of("ort-cpu") == before.losses_of("ort-cpu")
        loss = row.loss("engine", "openvino")
        assert loss is not None
        assert loss.difference.n == seen


def test_between_engines_the_same_pictures_are_compared(small: Recipe, tmp_path: Path) -> None:
    """A file is compared with itself on other pictures: the difference on those of both is zero."""
    folder = tmp_path / "run"
    execute(replace(small, engines=("ort-cpu:integer", "openvino:integer")), folder, Speed(0, 2), Progress())
    store = Store(folder)
    store.parts()[0].unlink()
    ours = next(part for part in store.parts() if part.name == "000001-openvino.parquet")
    ours.unlink()
    report = report_from_store(store)
    for row in report.of_kind("condition"):
        (loss,) = row.losses
        cells = [
            dict(store.query(f"select sample, correct from records where cell = '{row.cells[name]}'"))
            for name in (loss.before, loss.after)
        ]
        both = cells[0].keys() & cells[1].keys()
        assert loss.difference.n == len(both) == 8
        assert loss.difference.value == pytest.approx(sum(cells[1][s] - cells[0][s] for s in both) / len(both))
