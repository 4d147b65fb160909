"""Shards: several machines measure a run, and joining them proves that nothing is missing or double."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.extent import Extent, Shard, shard_from_text
from harness.merge import merge
from harness.progress import Progress
from harness.recipe import Recipe, toml_from_recipe
from harness.report.build import report_from_store
from harness.session import execute
from harness.speed import Speed
from harness.store import Store
from harness.until import Until
from tests.harness.test_resume import rows_of

SPEED = Speed(workers=0, callers=2)


@pytest.fixture(scope="module")
def shards(small: Recipe, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The small run on three machines; tests must not change them."""
    folders = []
    for number in (1, 2, 3):
        folders.append(tmp_path_factory.mktemp("shards") / str(number))
        execute(small, folders[-1], SPEED, Progress(), Extent(shard=Shard(number, 3)))
    return folders


def test_shards_joined_are_the_run_row_for_row(shards: list[Path], finished: Path, tmp_path: Path) -> None:
    assert [len(Store(shard).parts()) for shard in shards] == [2, 1, 1]
    report = merge(shards[::-1], tmp_path / "whole")
    assert rows_of(tmp_path / "whole").equals(rows_of(finished))
    assert report.rows == report_from_store(Store(finished)).rows
    assert (tmp_path / "whole" / "report.html").exists()


def test_a_shard_that_claimed_nothing_leaves_its_folder_to_the_whole_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    Extent(shard=Shard(1, 2)).claim(store)
    Extent().claim(store)
    store.claim({})
    Extent().claim(store)
    with pytest.raises(HarnessError, match="holds shard 1/1 of a run, and this is 1/2"):
        Extent(shard=Shard(1, 2)).claim(store)


def test_a_merged_run_is_complete(shards: list[Path], small: Recipe, tmp_path: Path) -> None:
    merge(shards, tmp_path / "whole")
    before = {part: part.stat().st_mtime_ns for part in Store(tmp_path / "whole").parts()}
    execute(small, tmp_path / "whole", SPEED, Progress())
    assert {part: part.stat().st_mtime_ns for part in Store(tmp_path / "whole").parts()} == before


def test_a_missing_shard_is_named(shards: list[Path], tmp_path: Path) -> None:
    with pytest.raises(
        HarnessError, match=r"1 of 4 parts are missing, the first is 000001-ort-cpu\.parquet; finish or name shard 2/3"
    ):
        merge([shards[0], shards[2]], tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_a_shard_named_twice_is_named(shards: list[Path], tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"part 000000-ort-cpu\.parquet is double"):
        merge([*shards, shards[0]], tmp_path / "whole")


def test_shards_of_two_runs_are_refused(shards: list[Path], small: Recipe, tmp_path: Path) -> None:
    execute(replace(small, seed=1), tmp_path / "other", SPEED, Progress(), Extent(shard=Shard(2, 3)))
    with pytest.raises(HarnessError, match=r"are not of one run: they differ in recipe.seed"):
        merge([shards[0], tmp_path / "other", shards[2]], tmp_path / "whole")


def test_a_damaged_part_and_one_with_too_few_rows_are_refused(shards: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shards[0], copy)
    first, second = Store(copy).parts()
    shutil.copy(shards[1] / "parts" / "000001-ort-cpu.parquet", first)  # the right name, another part's rows
    with pytest.raises(HarnessError, match="rows, one per cell and picture; it has"):
        merge([copy, *shards[1:]], tmp_path / "whole")
    second.write_bytes(second.read_bytes()[:-10])
    with pytest.raises(HarnessError, match=f"{second.name} is damaged"):
        merge([copy, *shards[1:]], tmp_path / "again")


def test_a_folder_holds_one_shard(shards: list[Path], small: Recipe) -> None:
    for extent in (Extent(), Extent(shard=Shard(2, 3))):
        with pytest.raises(HarnessError, match="holds shard 1/3 of a run"):
            execute(small, shards[0], SPEED, Progress(), extent)
    assert json.loads((shards[0] / "shard.json").read_text()) == {"shard": "1/3"}


def test_a_shard_cannot_end_early() -> None:
    with pytest.raises(HarnessError, match="--until needs all pictures in order"):
        Extent(Until("ci", 1.0), Shard(1, 2))


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "1/2/3"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(HarnessError, match="expected a shard such as 2/8"):
        shard_from_text(text)


def test_a_shard_that_owns_no_part_has_nothing_to_do(small: Recipe, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(toml_from_recipe(replace(small, limit=4, engines=("ort-cpu:fp32",))))
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "run", tmp_path / "r.toml", "--shard", "5/8", "-o", tmp_path / "run"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "shard 5/8 has nothing to measure" in done.stdout


def test_every_part_has_one_owner() -> None:
    for of in range(1, 6):
        owners = [[part for part in range(23) if Shard(number, of).owns(part)] for number in range(1, of + 1)]
        assert sorted(part for owned in owners for part in owned) == list(range(23))
