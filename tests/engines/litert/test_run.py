"""The whole line with a .tflite file: it runs on LiteRT without being told, in the one version that it is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'qharness[litert]'")

from harness.cli import main
from harness.demo.embedded import demo_recipe
from harness.errors import HarnessError
from harness.mismatch import mismatch_recipe
from harness.plan import plan
from harness.recipe import Recipe
from harness.store import Store
from tests.engines.litert.files import write_tflite
from tests.engines.tiny import CLASSES, Shape, write_tiny


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures for each class of the tiny network."""
    folder = tmp_path_factory.mktemp("pictures")
    for source in sorted(Path(demo_recipe().data).iterdir())[:CLASSES]:
        (folder / source.name).mkdir()
        for picture in sorted(source.iterdir())[:3]:
            shutil.copy(picture, folder / source.name)
    return folder


def measured(model: Path, pictures: Path, run: Path, engines: str = "litert") -> Store:
    words = ["run", str(model), "--data", str(pictures), "--preprocess", "tensorflow", "--noise", "clean,brightness:3"]
    assert main([*words, "--engines", engines, "-o", str(run)]) == 0
    return Store(run)


def margins(store: Store, contender: str) -> dict[str, list[float]]:
    """Picture -> how far its label's score is above the best other, under each condition."""
    conditions = store.read_json("run.json")["identity"]["conditions"]
    found: dict[str, list[float]] = {}
    for condition in conditions:
        cell = condition["cells"][contender]
        for sample, margin in store.query(f"select sample, margin from records where cell = '{cell}'"):
            found.setdefault(str(sample), []).append(margin)
    return found


def test_float_file_answers_as_the_same_network_does_as_onnx(pictures: Path, tmp_path: Path) -> None:
    lite = measured(write_tflite(tmp_path, "rows"), pictures, tmp_path / "lite")
    onnx = measured(write_tiny(tmp_path, Shape(nhwc=True)), pictures, tmp_path / "onnx", "ort-cpu:fp32")
    assert list(lite.read_json("prepared.json")["contenders"]) == ["litert:fp32"]
    got, wanted = margins(lite, "litert:fp32"), margins(onnx, "ort-cpu:fp32")
    assert len(got) == 3 * CLASSES
    assert set(got) == set(wanted)
    assert all(got[sample] == pytest.approx(wanted[sample], rel=1e-4, abs=1e-4) for sample in got)


@pytest.mark.parametrize("name", ["uint8", "int8"])
def test_integer_file_has_one_version_and_a_certificate(pictures: Path, tmp_path: Path, name: str) -> None:
    run = measured(write_tflite(tmp_path, name), pictures, tmp_path / "run")
    prepared = run.read_json("prepared.json")
    assert list(prepared["contenders"]) == ["litert:integer"]
    assert prepared["certificates"]["litert:integer"]["integer_fraction"] == 1.0
    assert not [each for each in prepared["findings"] if each["severity"] == "warning"]


def test_versions_that_a_file_has_not_are_refused(pictures: Path, tmp_path: Path) -> None:
    recipe = Recipe(model=str(write_tflite(tmp_path, "int8")), data=str(pictures), preprocess="tensorflow")
    with pytest.raises(
        HarnessError, match=r"tiny\.tflite is a TensorFlow Lite file, which ort-cpu does not run; choose"
    ):
        plan(recipe)
    with pytest.raises(HarnessError, match="is already quantised, so there is no simulated version"):
        plan(replace(recipe, engines=("litert:simulated",)))
    floats = replace(recipe, model=str(write_tflite(tmp_path, "rows")))
    with pytest.raises(HarnessError, match="is not quantised, and runs as it is, so there is no integer version"):
        plan(replace(floats, engines=("litert:integer",)))


@pytest.mark.parametrize(("name", "version"), [("rows", "fp32"), ("int8", "integer")])
def test_mismatch_swaps_steps_for_the_version_that_there_is(tmp_path: Path, name: str, version: str) -> None:
    recipe = Recipe(model=str(write_tflite(tmp_path, name)), data="", engines=("litert",))
    assert mismatch_recipe(recipe, ("layout",)).engines == (f"litert:{version}",)


def test_inspect_shows_the_certificate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(write_tflite(tmp_path, "uint8"))]) == 0
    shown = capsys.readouterr().out
    assert "100.00 % of 202,832 multiply-accumulates" in shown
    assert "XNNPACK CONV_2D" in shown


def test_sidecar_with_levels_feeds_a_uint8_input(pictures: Path, tmp_path: Path) -> None:
    """Levels are fed as they are: the same as normalising to the real numbers of the input's codes."""
    steps = [
        {"stage": "decode", "name": "pillow", "params": {}},
        {"stage": "resize", "name": "pillow", "params": {"geometry": "shorter_side", "size": 37, "filter": "bilinear"}},
        {"stage": "crop", "name": "centre", "params": {"size": 32}},
        {"stage": "layout", "name": "nhwc", "params": {}},
    ]
    model = write_tflite(tmp_path, "uint8", {"preprocessing": steps})
    assert main(["run", str(model), "--data", str(pictures), "--noise", "clean", "-o", str(tmp_path / "run")]) == 0
    facts = Store(tmp_path / "run").read_json("prepared.json")["contenders"]["litert:integer"]["facts"]
    scale, zero = facts["input"]["scale"][0], facts["input"]["zero_point"][0]
    real = {"scale": 1.0, "mean": [float(zero)] * 3, "std": [1 / scale] * 3}
    other = tmp_path / "other"
    other.mkdir()
    declared = [*steps[:3], {"stage": "normalise", "name": "float32", "params": real}, steps[3]]
    again = write_tflite(other, "uint8", json.loads(json.dumps({"preprocessing": declared})))
    assert main(["run", str(again), "--data", str(pictures), "--noise", "clean", "-o", str(other / "run")]) == 0
    got, wanted = (margins(Store(folder / "run"), "litert:integer") for folder in (tmp_path, other))
    assert len(got) == 3 * CLASSES
    assert got == wanted
