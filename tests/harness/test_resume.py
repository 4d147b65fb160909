"""A run may be killed at any moment; what is finished afterwards is what an uninterrupted run gives."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import HarnessError
from harness.extent import Extent, Shard
from harness.progress import Progress
from harness.recipe import Recipe, toml_from_recipe
from harness.report.build import Report, report_from_store
from harness.session import execute
from harness.speed import Speed
from harness.store import Store

ROOT = Path(__file__).parents[2]


def rows_of(folder: Path) -> pa.Table:
    """All rows in their stored order, without the timing that parts carry as metadata."""
    return pa.concat_tables([pq.read_table(part).replace_schema_metadata(None) for part in Store(folder).parts()])


def start(recipe: Path, folder: Path, python: Sequence[str] = ("-m", "harness.cli")) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        # A shell that runs the tests in the background has its children ignore Ctrl-C.
        ["env", "--default-signal=INT", sys.executable, *python, "run", str(recipe), "-o", str(folder), "--workers=1"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def wait_for(process: subprocess.Popen[bytes], file: Path) -> None:
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)


def finish(recipe: Path, folder: Path) -> None:
    _, said = (process := start(recipe, folder)).communicate(timeout=120)
    assert process.returncode == 0, said.decode()


def assert_as_uninterrupted(folder: Path, finished: Path) -> None:
    """The rows byte for byte, the report but for its times, and nothing half-written."""
    assert rows_of(folder).equals(rows_of(finished))
    ours, theirs = (json.loads((each / "report.json").read_text()) for each in (folder, finished))
    del ours["timing"], theirs["timing"]
    assert ours == theirs
    assert [path.name for path in folder.rglob(".*")] == [".lock"]


@pytest.mark.slow
def test_a_run_killed_at_twenty_random_moments_ends_as_an_uninterrupted_one(
    small: Recipe, finished: Path, tmp_path: Path
) -> None:
    recipe, draw = tmp_path / "recipe.toml", random.Random(0)
    recipe.write_text(toml_from_recipe(small))
    began = time.monotonic()
    finish(recipe, tmp_path / "uninterrupted")
    whole_seconds = time.monotonic() - began
    folders = [tmp_path / "killed-0"]
    parts_at_kill: list[int] = []
    while len(parts_at_kill) < 20:
        process = start(recipe, folders[-1])
        try:
            process.communicate(timeout=draw.uniform(0, whole_seconds))
        except subprocess.TimeoutExpired:
            end(process)
            parts_at_kill.append(len(Store(folders[-1]).parts()))
        else:  # it got through before its moment: the next one begins from nothing
            assert process.returncode == 0
            folders.append(tmp_path / f"killed-{len(folders)}")
    finish(recipe, folders[-1])
    for folder in folders:
        assert_as_uninterrupted(folder, finished)
    assert min(parts_at_kill) == 0
    assert max(parts_at_kill) > 0


@pytest.mark.slow
def test_a_run_killed_whenever_it_has_written_a_file_ends_as_an_uninterrupted_one(
    small: Recipe, finished: Path, tmp_path: Path
) -> None:
    recipe, folder = tmp_path / "recipe.toml", tmp_path / "killed"
    recipe.write_text(toml_from_recipe(small))
    for name in (
        ".lock",
        "recipe.toml",
        "artifacts/shapes.calibration.json",
        "artifacts/shapes.int8.ort-cpu.onnx",
        "run.json",
        "prepared.json",
        "parts/000002-ort-cpu.parquet",
        "report.json",
        "report.md",
    ):
        process = start(recipe, folder)
        wait_for(process, folder / name)
        end(process)
        assert (folder / name).exists()
    finish(recipe, folder)
    assert_as_uninterrupted(folder, finished)


def test_a_kill_between_parts_keeps_the_parts_that_are_there(small: Recipe, finished: Path, tmp_path: Path) -> None:
    recipe, folder = tmp_path / "recipe.toml", tmp_path / "killed"
    recipe.write_text(toml_from_recipe(small))
    process = start(recipe, folder)
    wait_for(process, folder / "parts" / "000000-ort-cpu.parquet")
    end(process)
    kept = {part: part.stat().st_mtime_ns for part in Store(folder).parts()}
    assert kept
    finish(recipe, folder)
    assert {part: part.stat().st_mtime_ns for part in kept} == kept
    assert rows_of(folder).equals(rows_of(finished))


# Python's wall clock as a machine shows it that lost its time: years ago, and set back between any two looks.
BACKWARDS = """
import sys, time

moment = [946684800.0]

def seconds():
    moment[0] -= 1.0
    return moment[0]

time.time, time.time_ns = seconds, lambda: int(1e9 * seconds())
from harness.cli import main
sys.exit(main(sys.argv[1:]))
"""
FUTURE = 2_000_000_000


def test_a_clock_that_is_set_back_changes_nothing(small: Recipe, finished: Path, tmp_path: Path) -> None:
    pictures = Path(shutil.copytree(small.data, tmp_path / "pictures"))
    recipe, folder = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(toml_from_recipe(replace(small, data=str(pictures))))
    process = start(recipe, folder)
    wait_for(process, folder / "parts" / "000000-ort-cpu.parquet")
    end(process)
    kept = Store(folder).parts()
    assert kept
    for path in (*pictures.rglob("*"), *folder.rglob("*")):
        os.utime(path, (FUTURE, FUTURE))
    _, said = (process := start(recipe, folder, ("-c", BACKWARDS))).communicate(timeout=120)
    assert process.returncode == 0, said.decode()
    assert {part.stat().st_mtime for part in kept} == {FUTURE}
    assert (folder / "artifacts" / "shapes.int8.ort-cpu.onnx").stat().st_mtime == FUTURE
    assert rows_of(folder).equals(rows_of(finished))
    assert all(timing["wall_seconds"] > 0 for timing in Store(folder).timings())


# All of Python's work is done when both are let go, so that they meet at the very first step.
READY = """
import sys
from harness.cli import main

print(flush=True)
sys.stdin.readline()
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("attempt", range(3))
def test_of_two_runs_started_at_once_in_a_new_folder_one_measures(
    small: Recipe, run_recipe: Callable[..., Report], tmp_path: Path, attempt: int
) -> None:
    few = replace(small, noise=("clean",), engines=("ort-cpu:fp32",), limit=4 + attempt)
    recipe, folder = tmp_path / "recipe.toml", tmp_path / "new" / "run"
    recipe.write_text(toml_from_recipe(few))
    both = [start(recipe, folder, ("-c", READY)) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        process.stdout.readline()
    for process in both:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    said = {process.returncode: err.decode() for process, (_, err) in [(each, each.communicate()) for each in both]}
    assert set(said) == {0, 2}, said
    assert said[2] == (
        f"error: another qharness is at work in {folder}; wait for it, or choose another folder with -o\n"
    )
    run_recipe(few, "alone")
    assert rows_of(folder).equals(rows_of(tmp_path / "alone"))


def test_a_shard_interrupted_before_its_recipe_was_kept_continues(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(store: Store, name: str, content: str) -> Path:
        raise KeyboardInterrupt

    few, extent = replace(small, noise=("clean",), engines=("ort-cpu:fp32",)), Extent(shard=Shard(1, 2))
    with monkeypatch.context() as patched:
        patched.setattr(Store, "write_text", interrupted)
        with pytest.raises(KeyboardInterrupt):
            execute(few, tmp_path / "run", Speed(workers=0), Progress(), extent)
    execute(few, tmp_path / "run", Speed(workers=0), Progress(), extent)
    assert len(Store(tmp_path / "run").parts()) == 2


def test_ctrl_c_leaves_a_run_that_continues(small: Recipe, finished: Path, tmp_path: Path) -> None:
    recipe, folder = tmp_path / "recipe.toml", tmp_path / "interrupted"
    recipe.write_text(toml_from_recipe(small))
    process = start(recipe, folder)
    wait_for(process, folder / "parts" / "000000-ort-cpu.parquet")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    finish(recipe, folder)
    assert rows_of(folder).equals(rows_of(finished))


@pytest.mark.parametrize(
    "speed",
    [
        *(Speed(workers, callers) for workers in (0, 1, 2, 4) for callers in (1, 3)),
        Speed(workers=0, batch=1),
        Speed(workers=3, batch=5),
        Speed(workers=2, batch=64),
        Speed(),
    ],
)
def test_rows_do_not_depend_on_workers_callers_or_batch(
    small: Recipe, finished: Path, run_recipe: Callable[..., Report], tmp_path: Path, speed: Speed
) -> None:
    run_recipe(small, speed=speed)
    assert rows_of(tmp_path / "run").equals(rows_of(finished))


def test_an_unfinished_part_is_never_read(
    small: Recipe, finished: Path, run_recipe: Callable[..., Report], tmp_path: Path
) -> None:
    run_recipe(small)
    torn = tmp_path / "run" / "parts" / ".000001-ort-cpu.parquet.unfinished"
    torn.write_bytes(Store(finished).parts()[1].read_bytes()[:100])
    run_recipe(small)
    assert rows_of(tmp_path / "run").equals(rows_of(finished))


@pytest.mark.parametrize("keep", [0, 4, 0.5, -1, None])
def test_a_part_that_was_cut_off_is_said_and_measured_again(
    small: Recipe,
    run_recipe: Callable[..., Report],
    tmp_path: Path,
    finished: Path,
    capfd: pytest.CaptureFixture[str],
    keep: float | None,
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    part = Store(tmp_path / "run").parts()[1]
    content = part.read_bytes()
    if keep is None:  # a disk that forgot some of it
        part.write_bytes(content[:300] + bytes(200) + content[500:])
    else:
        part.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else int(keep)])
    with pytest.raises(HarnessError, match="is damaged"):
        report_from_store(Store(tmp_path / "run"))
    run_recipe(small)
    assert f"{part} is damaged and will be measured again" in capfd.readouterr().err
    assert rows_of(tmp_path / "run").equals(rows_of(finished))


def test_another_recipe_may_not_continue_a_run(small: Recipe, run_recipe: Callable[..., Report]) -> None:
    run_recipe(replace(small, noise=("clean",), limit=4))
    with pytest.raises(HarnessError, match=r"limit = 4.*limit.*5|limit = 4, and this one has 5"):
        run_recipe(replace(small, noise=("clean",), limit=5))


def test_changed_pictures_may_not_continue_a_run(
    small: Recipe, run_recipe: Callable[..., Report], tmp_path: Path
) -> None:
    data = tmp_path / "pictures"
    shutil.copytree(small.data, data)
    recipe = replace(small, data=str(data), noise=("clean",))
    run_recipe(recipe)
    first, second = sorted(data.glob("*/*.jpg"))[:2]
    first.write_bytes(second.read_bytes())
    with pytest.raises(HarnessError, match=r"data\.fingerprint"):
        run_recipe(recipe)


def test_a_run_of_another_environment_may_not_be_continued(
    small: Recipe, run_recipe: Callable[..., Report], tmp_path: Path
) -> None:
    recipe = replace(small, noise=("clean",), limit=4)
    run_recipe(recipe)
    store = Store(tmp_path / "run")
    header = store.read_json("run.json")
    header["identity"]["environment"]["libraries"]["numpy"] = "1.0"
    store.write_json("run.json", header)
    with pytest.raises(HarnessError, match=r"environment\.libraries\.numpy \(there \"1\.0\""):
        run_recipe(recipe)
