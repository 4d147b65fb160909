"""A disk that fills up, at any station: one message, nothing lost, and the run continues when there is room."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harness.recipe import Recipe, toml_from_recipe
from tests.harness.test_resume import assert_as_uninterrupted, finish, rows_of, start, wait_for


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB of its own, in a name space that is gone with the process that holds it."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("filling a disk takes a small file system of its own, which only root may mount")
    mount = tmp_path / "small-disk"
    mount.mkdir()
    holder = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", f"mount -t tmpfs -o size=16m tmpfs '{mount}' && echo mounted && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    if holder.stdout.readline() != "mounted\n":
        pytest.skip(f"mounting a small file system is not allowed here: {holder.communicate()[1].strip()}")
    yield Path(f"/proc/{holder.pid}/root{mount}")
    holder.communicate()


def fill(disk: Path) -> Path:
    """Take all room that is left; returns the file that has it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(disk).free == 0
    return ballast


def refused(recipe: Path, folder: Path) -> str:
    """The message of a command that ends as the user's fault does."""
    _, said = (process := start(recipe, folder)).communicate(timeout=120)
    message = said.decode().splitlines()[-1]
    assert process.returncode == 2, said.decode()
    assert "Traceback" not in said.decode()
    assert "the disk is full; what was measured before is kept. Free some space and repeat the command" in message
    return message


def test_a_disk_that_fills_up_while_measuring_keeps_what_was_measured(
    small: Recipe, finished: Path, tmp_path: Path, small_disk: Path
) -> None:
    recipe, folder = tmp_path / "recipe.toml", small_disk / "run"
    recipe.write_text(toml_from_recipe(small))
    process = start(recipe, folder)
    wait_for(process, folder / "parts" / "000000-ort-cpu.parquet")
    process.send_signal(signal.SIGSTOP)  # so that it cannot end before the disk is full
    ballast = fill(small_disk)
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2, said.decode()
    assert b"the disk is full" in said
    assert b"Traceback" not in said
    kept = rows_of(folder)
    assert kept.equals(rows_of(finished).slice(0, len(kept)))
    assert not list((folder / "parts").glob(".*")), "a half-written part was left behind"
    ballast.unlink()
    finish(recipe, folder)
    assert_as_uninterrupted(folder, finished)


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_file_of_the_run_loses_nothing(
    small: Recipe, finished: Path, tmp_path: Path, small_disk: Path
) -> None:
    recipe, folder = tmp_path / "recipe.toml", small_disk / "run"
    recipe.write_text(toml_from_recipe(small))
    ballast = fill(small_disk)
    assert str(folder / "recipe.toml") in refused(recipe, folder)
    ballast.unlink()
    finish(recipe, folder)
    whole = rows_of(folder)
    # Each time the run lacks one file, so that this is what it writes first. Reports are always written.
    for name in (
        "artifacts/shapes.calibration.json",
        "artifacts/shapes.int8.ort-cpu.onnx",
        "artifacts/shapes.int8.ort-cpu.onnx.json",
        "prepared.json",
        "parts/000001-ort-cpu.parquet",
        "report.json",
    ):
        (folder / name).unlink()
        ballast = fill(small_disk)
        message = refused(recipe, folder)
        if "artifacts" not in name:
            assert str(folder / name) in message
        ballast.unlink()
        finish(recipe, folder)
        assert (folder / name).stat().st_size > 0
        assert rows_of(folder).equals(whole)
    assert_as_uninterrupted(folder, finished)
