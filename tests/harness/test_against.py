"""Against: two runs are paired picture by picture, and only where the pictures and the noises are the same."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines.onnx_file import artifact_from_onnx
from exporters.operators import folded_mean, write_variant
from harness.against import Baseline
from harness.errors import HarnessError
from harness.estimate import paired_difference
from harness.looks import z_from_looks
from harness.progress import Progress
from harness.recipe import Recipe
from harness.session import execute
from harness.speed import Speed
from harness.store import STOPPING, Store

ENGINE = "ort-cpu:integer"
NOISY = ("gaussian_noise:3", "brightness:2", "resize:nearest")


@pytest.fixture(scope="module")
def other(small: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures and noises in another order, on the network with one scale per weight."""
    folder = tmp_path_factory.mktemp("runs") / "other"
    rough = replace(small, weights="per-tensor", seed=3, calibration_method="percentile:90")
    execute(rough, folder, Speed(0, 2), Progress())
    return folder


def answers(folder: Path, condition: str) -> dict[str, bool]:
    store = Store(folder)
    conditions = store.read_json("run.json")["identity"]["conditions"]
    cell = next(each["cells"][ENGINE] for each in conditions if each["name"] == condition)
    return dict(store.query(f"select sample, correct from records where cell = '{cell}'"))


def changed_copy(run: Path, folder: Path, **data: object) -> Store:
    """A copy of a run whose identity says something else of its data."""
    shutil.copytree(run, folder)
    header = json.loads((folder / "run.json").read_text())
    header["identity"]["data"].update(data)
    (folder / "run.json").write_text(json.dumps(header))
    return Store(folder)


@pytest.mark.parametrize(("row", "conditions"), [("clean", ("clean",)), ("all noises", NOISY)])
def test_a_change_is_paired_by_the_ids_of_the_pictures(
    finished: Path, other: Path, row: str, conditions: tuple[str, ...]
) -> None:
    samples = sorted(answers(finished, "clean"))
    assert [sample for (sample,) in Store(other).query("select distinct sample from records")] != samples
    here, there = (
        np.mean([[float(answers(run, name)[sample]) for sample in samples] for name in conditions], axis=0)
        for run in (finished, other)
    )
    got = Baseline(Store(finished), Store(other)).change(row, ENGINE)
    assert got == paired_difference(there, here)
    assert got.value != 0  # or the test could not tell one order of pictures from another


def test_pictures_that_one_run_lacks_are_left_out(finished: Path, other: Path, tmp_path: Path) -> None:
    shutil.copytree(other, tmp_path / "part")
    Store(tmp_path / "part").parts()[0].unlink()
    left = answers(tmp_path / "part", "clean")
    here = answers(finished, "clean")
    got = Baseline(Store(finished), Store(tmp_path / "part")).change("clean", ENGINE)
    assert got.n == len(left) < 16
    assert got.value == pytest.approx(np.mean([float(here[sample]) - float(left[sample]) for sample in left]))


def test_a_run_that_might_have_ended_at_several_looks_widens_the_interval(
    finished: Path, other: Path, tmp_path: Path
) -> None:
    shutil.copytree(other, tmp_path / "ended")
    Store(tmp_path / "ended").write_json(STOPPING, {"rule": "ci<9", "looks": [4, 8, 16], "enough_at": 16})
    plain = Baseline(Store(finished), Store(other)).change("clean", ENGINE)
    wide = Baseline(Store(finished), Store(tmp_path / "ended")).change("clean", ENGINE)
    assert plain.low is not None
    assert plain.high is not None
    assert wide.low is not None
    assert wide.value == plain.value
    centre = (plain.low + plain.high) / 2
    assert (centre - wide.low) / (centre - plain.low) == pytest.approx(z_from_looks(3) / z_from_looks(1))


def test_a_failed_picture_is_wrong_and_counted(finished: Path, small: Recipe, tmp_path: Path) -> None:
    shutil.copytree(small.data, tmp_path / "data")
    broken = sorted((tmp_path / "data").glob("*/*.jpg"))[0]
    broken.write_bytes(broken.read_bytes()[:200])
    execute(replace(small, data=str(tmp_path / "data")), tmp_path / "run", Speed(0, 2), Progress())
    print_of = Store(finished).read_json("run.json")["identity"]["data"]["fingerprint"]
    with pytest.raises(HarnessError, match="their ids, labels or contents differ"):
        Baseline(Store(finished), Store(tmp_path / "run"))
    same = changed_copy(tmp_path / "run", tmp_path / "same", fingerprint=print_of)
    got = Baseline(same, Store(finished)).change("clean", ENGINE)
    assert (got.n, got.failed) == (16, 1)
    assert got.value == pytest.approx(-1 / 16)


def test_a_model_that_normalises_itself_is_compared_with_its_parent(
    finished: Path, small: Recipe, tmp_path: Path
) -> None:
    parent = artifact_from_onnx(Path(small.model))
    folded = write_variant(parent, "folded-mean", folded_mean, tmp_path / "folded.onnx")
    recipe = replace(small, model=str(folded.path), noise=("clean", "brightness:2"), engines=("ort-cpu:fp32",))
    execute(recipe, tmp_path / "run", Speed(0, 2), Progress())
    got = Baseline(Store(tmp_path / "run"), Store(finished)).change("brightness:2", "ort-cpu:fp32")
    assert (got.n, got.failed) == (16, 0)
    assert got.value == pytest.approx(0, abs=2 / 16)  # but for rounding and the padding they are one network


def test_another_preprocessing_or_noise_is_refused(finished: Path, small: Recipe, tmp_path: Path) -> None:
    few = replace(small, noise=("clean", "gaussian_noise:3"))
    execute(few, tmp_path / "few", Speed(0, 2), Progress())
    baseline = Baseline(Store(finished), Store(tmp_path / "few"))
    assert baseline.change("gaussian_noise:3", ENGINE).n == 16
    with pytest.raises(HarnessError, match=r"no condition in .*few 'brightness:2'"):
        baseline.change("all noises", ENGINE)
    with pytest.raises(HarnessError, match=r"no version in .*few 'openvino:integer'"):
        baseline.change("clean", "openvino:integer")
    other = replace(few, preprocess="tensorflow")
    execute(other, tmp_path / "prepared", Speed(0, 2), Progress())
    with pytest.raises(HarnessError, match=r"'clean' is not the same noise in .* they differ in clean"):
        Baseline(Store(finished), Store(tmp_path / "prepared")).change("clean", ENGINE)
