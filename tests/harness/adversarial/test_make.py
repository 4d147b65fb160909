"""Making sets: killed and continued, damaged and mended, pictures and engines that fail, attacks that cheat."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.base import EngineError
from harness.adversarial import make
from harness.adversarial.make import Job, make_set
from harness.adversarial.metrics import on_source
from harness.adversarial.models import EngineModel, Logits
from harness.adversarial.sets import set_from_folder
from harness.errors import HarnessError
from harness.plan import Plan, plan
from harness.prepare import prepare
from harness.progress import Progress
from harness.recipe import Recipe
from harness.registry import twin_opener
from harness.samples import Sample
from noise.adversarial import DECISION, recipes
from noise.adversarial.base import Pictures, budget_from_text
from noise.adversarial.ledger import Ledger, Terms
from noise.base import Step

BUDGET = budget_from_text("4/255")
BELOW = budget_from_text("0.5/255")  # of which a single step breaks some of the pictures
SQUARE = "square:queries=12"


@pytest.fixture
def made(recipe: Recipe) -> Plan:
    return plan(replace(recipe, noise=("clean",), engines=("ort-cpu:fp32",), limit=6))


@pytest.fixture
def engine(made: Plan, tmp_path: Path) -> Iterator[EngineModel]:
    (contender,) = prepare(made, tmp_path / "artifacts", Progress())
    with closing(EngineModel(contender, made.pipeline, 4)) as model:
        yield model


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def test_a_set_is_the_same_whatever_is_attacked_together(
    made: Plan, engine: EngineModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_set(Job(tmp_path / "a", engine, SQUARE, BUDGET, made), Progress())
    monkeypatch.setattr(make, "IN_ONE_LEDGER", 2)
    make_set(Job(tmp_path / "b", engine, SQUARE, BUDGET, made), Progress())
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_what_is_lost_or_damaged_is_attacked_again_and_the_rest_is_not(
    made: Plan, engine: EngineModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(tmp_path / "set", engine, SQUARE, BUDGET, made)
    before = make_set(job, Progress())
    whole = content(job.folder)
    names = [entry["file"] for entry in before.entries.values()]
    (job.folder / names[0]).unlink()
    (job.folder / names[1]).write_bytes(b"no picture")
    asked: list[str] = []
    target = make._target

    def counted(tree: Any, sample: Sample, made: Plan) -> Any:
        asked.append(sample.id)
        return target(tree, sample, made)

    monkeypatch.setattr(make, "_target", counted)
    make_set(job, Progress())
    assert sorted(asked) == sorted(list(before.entries)[:2])
    assert content(job.folder) == whole


def test_another_attack_does_not_continue_a_set(made: Plan, engine: EngineModel, tmp_path: Path) -> None:
    job = Job(tmp_path / "set", engine, SQUARE, BUDGET, made)
    make_set(job, Progress())
    with pytest.raises(HarnessError, match=r"holds pictures that differ in adversarial\.attack"):
        make_set(replace(job, attack="square:queries=13"), Progress())


def test_a_model_behind_other_steps_or_options_does_not_continue_a_set(
    made: Plan, engine: EngineModel, tmp_path: Path
) -> None:
    job = Job(tmp_path / "set", engine, SQUARE, BUDGET, made)
    make_set(job, Progress())
    contender = engine._contender
    slower = replace(contender, options=replace(contender.options, optimisation="disabled"))
    half = made.pipeline.with_step(Step("normalise", "float16", {}))
    for other, pipeline, what in ((slower, made.pipeline, "options"), (contender, half, "steps")):
        with closing(EngineModel(other, pipeline, 4)) as model, pytest.raises(HarnessError, match=f"source\\.{what}"):
            make_set(replace(job, model=model), Progress())


def test_a_folder_of_other_things_is_left_alone(made: Plan, engine: EngineModel, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(HarnessError, match=r"is not empty and has no manifest\.jsonl"):
        make_set(Job(tmp_path, engine, SQUARE, BUDGET, made), Progress())


def test_a_picture_that_cannot_be_read_is_a_counted_row(made: Plan, engine: EngineModel, tmp_path: Path) -> None:
    class Lost:
        order = ()

        def read(self) -> bytes:
            raise FileNotFoundError("gone")

    first, *rest = made.scored.samples
    broken = replace(made, scored=replace(made.scored, samples=(replace(first, locator=Lost()), *rest)))
    found = make_set(Job(tmp_path / "set", engine, SQUARE, BUDGET, broken), Progress())
    assert "gone" in found.entries[first.id]["error"]
    assert on_source(found).clean.failed == 1
    assert on_source(found).clean.n == len(made.scored.samples)


def test_an_engine_that_fails_at_one_picture_fails_at_no_other(
    made: Plan, engine: EngineModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_set(Job(tmp_path / "whole", engine, SQUARE, BUDGET, made), Progress())
    bad = make.pictures_of(made, 3)[-1]
    logits = engine.logits

    def failing(pictures: Pictures) -> Logits:
        if any(np.array_equal(np.rint(each * 255), bad.levels) for each in pictures):
            raise EngineError("out of memory")
        return logits(pictures)

    monkeypatch.setattr(engine, "logits", failing)
    found = make_set(Job(tmp_path / "set", engine, SQUARE, BUDGET, made), Progress())
    assert found.entries[bad.sample.id]["error"] == "engine: out of memory"
    rest = {name: entry for name, entry in whole.entries.items() if name != bad.sample.id}
    assert {name: entry for name, entry in found.entries.items() if "error" not in entry} == rest


def test_batches_are_full_until_the_last_pictures(
    made: Plan, engine: EngineModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledgers: list[Ledger] = []
    new = engine.ledger

    def noted(needs: str) -> Ledger:
        ledgers.append(new(needs))
        return ledgers[-1]

    monkeypatch.setattr(engine, "ledger", noted)
    found = make_set(Job(tmp_path / "set", engine, "square:queries=40", BUDGET, made), Progress())
    (ledger,) = ledgers
    assert ledger.queries == sum(entry["queries"] for entry in found.entries.values())
    longest = max(entry["queries"] for entry in found.entries.values())
    # Each call is full, or all pictures that are not done are in it.
    assert ledger.calls <= ledger.queries / ledger.batch + longest
    assert ledger.abreast >= 2 * ledger.batch


def test_in_a_cascade_each_picture_has_the_account_of_what_was_asked_about_it(made: Plan, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="twins need torch")
    twin = twin_opener()("twin", made.artifact, made.pipeline, 4)
    recipe = recipes.Recipe("", tuple(map(recipes.Planned, ("fgsm", "square:queries=5"))), cascades=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes.RECIPES, "two", recipe)
        found = make_set(Job(tmp_path / "set", twin, "two", BELOW, made), Progress())
        alone = make_set(Job(tmp_path / "one", twin, "fgsm", BELOW, made), Progress())
    for name, entry in found.entries.items():
        fell = alone.entries[name]["attacked"] != entry["label"]
        assert (entry["queries"] == 0) == fell
        assert entry["queries"] <= 5
    assert {entry["queries"] == 0 for entry in found.entries.values()} == {True, False}
    assert all("queries" not in entry for entry in alone.entries.values())


class Cheat:
    """A double of an attack, which asks nothing but the clean pictures, if that, and leaves its budget."""

    def __init__(self, asks: bool) -> None:
        self.asks = asks

    def __call__(self, model: Any, pictures: Pictures, labels: Any, rngs: Any) -> Pictures:
        if self.asks:
            model.search(Terms(BUDGET, 2, DECISION), pictures, labels, [(_ for _ in ()) for _ in pictures])
        return np.clip(pictures + 0.5, 0, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("asks", "message"),
    [
        (True, r"left its budget linf:4/255 on \d+ of 6 pictures"),
        (False, "must search for each picture once; of 6 pictures it searched for 0"),
    ],
)
def test_an_attack_that_cheats_is_caught(
    made: Plan, engine: EngineModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asks: bool, message: str
) -> None:
    monkeypatch.setattr(make, "attack_from_text", lambda text, budget: Cheat(asks))
    with pytest.raises(HarnessError, match=message):
        make_set(Job(tmp_path / "set", engine, SQUARE, BUDGET, made), Progress())


class Slow(EngineModel):
    """An engine that takes its time, so that a process that asks it can be killed."""

    def logits(self, pictures: Pictures) -> Logits:
        time.sleep(0.02)
        return super().logits(pictures)

    def describe(self) -> Mapping[str, Any]:
        return super().describe()


KILLED = """
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from harness.adversarial.make import Job, make_set
from harness.demo.embedded import demo_recipe
from harness.plan import plan
from harness.prepare import prepare
from harness.progress import Progress
from noise.adversarial.base import budget_from_text
from tests.harness.adversarial.test_make import SQUARE, Slow

recipe = replace(demo_recipe(), calibration_pictures=4, noise=("clean",), engines=("ort-cpu:fp32",), limit=6)
made = plan(recipe)
(contender,) = prepare(made, Path(sys.argv[1]) / "artifacts", Progress())
with closing(Slow(contender, made.pipeline, 1)) as model:
    make_set(Job(Path(sys.argv[1]) / "set", model, SQUARE, budget_from_text("4/255"), made), Progress())
"""


def test_a_process_that_is_killed_leaves_a_set_that_continues_to_the_same_end(
    made: Plan, engine: EngineModel, tmp_path: Path
) -> None:
    whole = make_set(Job(tmp_path / "whole", engine, SQUARE, BUDGET, made), Progress())
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[3])
    manifest = tmp_path / "set" / "manifest.jsonl"
    deadline = time.monotonic() + 120
    while not manifest.exists() or len(manifest.read_text().splitlines()) < 3:
        assert process.poll() is None, "it was over before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = set_from_folder(tmp_path / "set")
    assert 2 <= len(left.entries) < len(whole.entries)
    found = make_set(Job(tmp_path / "set", engine, SQUARE, BUDGET, made), Progress())
    assert found.entries == whole.entries
