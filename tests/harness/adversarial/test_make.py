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
from noise.adversarial.base import Pictures, budget_from_text
from noise.base import Step

BUDGET = budget_from_text("4/255")
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
    monkeypatch.setattr(make, "TOGETHER", 2)
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
    attack = make._attacked

    def counted(job: Job, samples: Any) -> Any:
        asked.extend(sample.id for sample in samples)
        return attack(job, samples)

    monkeypatch.setattr(make, "_attacked", counted)
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


class Cheat:
    """A double of an attack, which leaves its budget."""

    def __call__(self, model: Any, pictures: Pictures, labels: Any, rngs: Any) -> Pictures:
        return np.clip(pictures + 0.5, 0, 1).astype(np.float32)


def test_an_attack_that_leaves_its_budget_is_caught(
    made: Plan, engine: EngineModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "attack_from_text", lambda text, budget: Cheat())
    with pytest.raises(HarnessError, match=r"left its budget linf:4/255 on \d+ of 6 pictures"):
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
from harness.adversarial import make
from harness.demo.embedded import demo_recipe
from harness.plan import plan
from harness.prepare import prepare
from harness.progress import Progress
from noise.adversarial.base import budget_from_text
from tests.harness.adversarial.test_make import SQUARE, Slow

make.TOGETHER = 1
recipe = replace(demo_recipe(), calibration_pictures=4, noise=("clean",), engines=("ort-cpu:fp32",), limit=6)
made = plan(recipe)
(contender,) = prepare(made, Path(sys.argv[1]) / "artifacts", Progress())
with closing(Slow(contender, made.pipeline, 4)) as model:
    make.make_set(make.Job(Path(sys.argv[1]) / "set", model, SQUARE, budget_from_text("4/255"), made), Progress())
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
