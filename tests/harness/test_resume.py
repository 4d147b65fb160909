"""A run may be killed at any moment; what is finished afterwards is what an uninterrupted run gives."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import HarnessError
from harness.recipe import Recipe, toml_from_recipe
from harness.report.build import Report, report_from_store
from harness.speed import Speed
from harness.store import Store

ROOT = Path(__file__).parents[2]


def rows_of(folder: Path) -> pa.Table:
    """All rows in their stored order, without the timing that parts carry as metadata."""
    return pa.concat_tables([pq.read_table(part).replace_schema_metadata(None) for part in Store(folder).parts()])


def start(recipe: Path, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        # A shell that runs the tests in the background has its children ignore Ctrl-C.
        [
            "env",
            "--default-signal=INT",
            sys.executable,
            "-m",
            "harness.cli",
            "run",
            str(recipe),
            "-o",
            str(folder),
            "--workers",
            "1",
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for_a_part(process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not Store(folder).parts() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)


def test_a_run_killed_again_and_again_ends_row_for_row_as_an_uninterrupted_one(
    small: Recipe, finished: Path, tmp_path: Path
) -> None:
    recipe, folder = tmp_path / "recipe.toml", tmp_path / "killed"
    recipe.write_text(toml_from_recipe(small))
    kills = 0
    # Each attempt lives a little longer than the one before, so that every station is hit.
    for life_seconds in (0.8, 1.4, 2.0, 2.6, 3.2, 4.0):
        process = start(recipe, folder)
        try:
            process.wait(timeout=life_seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills > 0
    assert start(recipe, folder).wait(timeout=120) == 0
    assert rows_of(folder).equals(rows_of(finished))


def test_a_kill_between_parts_keeps_the_parts_that_are_there(small: Recipe, finished: Path, tmp_path: Path) -> None:
    recipe, folder = tmp_path / "recipe.toml", tmp_path / "killed"
    recipe.write_text(toml_from_recipe(small))
    process = start(recipe, folder)
    wait_for_a_part(process, folder)
    process.kill()
    process.wait()
    kept = {part: part.stat().st_mtime_ns for part in Store(folder).parts()}
    assert kept
    assert start(recipe, folder).wait(timeout=120) == 0
    assert {part: part.stat().st_mtime_ns for part in kept} == kept
    assert rows_of(folder).equals(rows_of(finished))


def test_ctrl_c_leaves_a_run_that_continues(small: Recipe, finished: Path, tmp_path: Path) -> None:
    recipe, folder = tmp_path / "recipe.toml", tmp_path / "interrupted"
    recipe.write_text(toml_from_recipe(small))
    process = start(recipe, folder)
    wait_for_a_part(process, folder)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert start(recipe, folder).wait(timeout=120) == 0
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


@pytest.mark.parametrize("keep", [0, 4, 0.5, -1])
def test_a_part_that_was_cut_off_is_said_and_measured_again(
    small: Recipe,
    run_recipe: Callable[..., Report],
    tmp_path: Path,
    finished: Path,
    capfd: pytest.CaptureFixture[str],
    keep: float,
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    part = Store(tmp_path / "run").parts()[1]
    content = part.read_bytes()
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
