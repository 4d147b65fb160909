"""A model that takes levels answers, bit for bit, what it answered behind the preprocessing that it took in."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from engines.artifact import Artifact, sidecar_path, write_sidecar
from engines.base import EngineOptions, call
from engines.onnx_file import artifact_from_onnx
from engines.ort import open_cpu
from exporters.base import ExportError
from exporters.levels import with_levels
from harness.batches import Bundle, Preparer
from harness.cli import main
from harness.demo.embedded import demo_recipe
from harness.plan import plan
from harness.prepare import prepare
from harness.progress import Progress
from harness.recipe import Recipe
from harness.session import execute
from harness.speed import Speed
from noise.presets import pipeline_from_preset
from tests.engines.tiny import CLASSES, SIZE, Shape, tiny_artifact
from tests.harness.test_resume import rows_of

OPTIONS = {"fp32": EngineOptions(), "simulated": EngineOptions(integer_kernels=False), "integer": EngineOptions()}


def inputs_of(recipe: Recipe) -> np.ndarray:
    """The first pictures of a recipe as its model takes them."""
    made = plan(recipe)
    preparation = made.preparation(8)
    batches = Preparer(preparation).batches(Bundle(0, made.scored.samples[:8]), preparation.place)
    return next(iter(batches)).inputs


def answers(artifact: Artifact, options: EngineOptions, batch: np.ndarray) -> np.ndarray:
    with closing(open_cpu(artifact, options)) as engine:
        return call(engine, {artifact.input.name: batch}).outputs[artifact.output.name]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """The embedded network: in float, and quantised."""
    recipe = replace(demo_recipe(), calibration_pictures=8, noise=("clean",))
    made = prepare(plan(recipe), tmp_path_factory.mktemp("versions"), Progress())
    return {each.version: each.artifact for each in made}


@pytest.mark.parametrize("version", OPTIONS)
def test_answers_are_those_of_the_old_preprocessing_bit_for_bit(
    versions: dict[str, Artifact], version: str, tmp_path: Path
) -> None:
    before = versions[version]
    after = with_levels(before, tmp_path / "levels.onnx")
    assert (after.input.dtype, after.input.shape[1:]) == ("uint8", (*before.size, 3))
    recipe = replace(demo_recipe(), noise=("clean",), engines=("ort-cpu:integer",))
    floats = inputs_of(replace(recipe, model=str(before.path)))
    levels = inputs_of(replace(recipe, model=str(after.path)))
    assert levels.nbytes * 4 == floats.nbytes
    assert np.array_equal(answers(after, OPTIONS[version], levels), answers(before, OPTIONS[version], floats))


def test_file_says_where_it_comes_from_and_keeps_what_it_said(versions: dict[str, Artifact], tmp_path: Path) -> None:
    before = versions["integer"]
    after = artifact_from_onnx(with_levels(before, tmp_path / "levels.onnx").path)
    assert after.made_by["levels"]["parent_sha256"] == before.sha256
    assert after.made_by["levels"]["normalise"] == dict((before.preprocessing or ())[-2]["params"])
    assert {**after.made_by, "levels": None} == {**before.made_by, "levels": None}
    assert (after.classes, after.output_kind, after.quantised) == (before.classes, before.output_kind, True)
    assert (after.preprocessing or ())[:-1] == (before.preprocessing or ())[:-2]


def test_channels_last_network_takes_levels_too(tmp_path: Path) -> None:
    """By ONNX's own evaluator, which shares nothing with an engine."""
    preprocessing = tuple(pipeline_from_preset("imagenet", size=SIZE, layout="nhwc").describe())
    before = replace(tiny_artifact(tmp_path, Shape(nhwc=True)), preprocessing=preprocessing)
    after = with_levels(before, tmp_path / "levels.onnx")
    levels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    params = preprocessing[-2]["params"]
    floats = (levels.astype(np.float32) / np.float32(params["scale"]) - np.float32(params["mean"])) / np.float32(
        params["std"]
    )
    (got,) = ReferenceEvaluator(str(after.path)).run(None, {after.input.name: levels})
    (wanted,) = ReferenceEvaluator(str(before.path)).run(None, {before.input.name: floats})
    assert np.asarray(got).shape == (2, CLASSES)
    assert np.array_equal(got, wanted)


def test_run_with_levels_gives_the_rows_that_it_gives_with_floats(
    versions: dict[str, Artifact], tmp_path: Path
) -> None:
    """Through workers, corruptions and both versions of a quantised file."""
    levels = with_levels(versions["integer"], tmp_path / "levels.onnx")
    recipe = replace(demo_recipe(), noise=("clean", "gaussian_noise:3", "resize:nearest"), limit=24)
    for name, path in (("floats", versions["integer"].path), ("levels", levels.path)):
        execute(replace(recipe, model=str(path)), tmp_path / name, Speed(workers=1), Progress())
    floats, ours = (rows_of(tmp_path / name) for name in ("floats", "levels"))
    columns = [name for name in floats.column_names if name != "cell"]
    assert ours.num_rows == floats.num_rows == 24 * 3 * 2
    assert ours.select(columns).equals(floats.select(columns))


def test_model_without_preprocessing_or_with_levels_is_refused(tmp_path: Path, versions: dict[str, Artifact]) -> None:
    with pytest.raises(ExportError, match=r"ends with normalise\.float32 and layout\.nchw; got none"):
        with_levels(tiny_artifact(tmp_path), tmp_path / "levels.onnx")
    once = with_levels(versions["fp32"], tmp_path / "levels.onnx")
    with pytest.raises(ExportError, match="takes levels already"):
        with_levels(once, tmp_path / "twice.onnx")


def test_pipeline_that_still_makes_floats_is_refused(versions: dict[str, Artifact], tmp_path: Path) -> None:
    levels = with_levels(versions["fp32"], tmp_path / "levels.onnx")
    write_sidecar(replace(levels, preprocessing=versions["fp32"].preprocessing))
    with pytest.raises(Exception, match=r"makes float32 .* expects uint8"):
        plan(replace(demo_recipe(), model=str(levels.path), noise=("clean",)))


@pytest.mark.parametrize("more", [(), ("--to", "int4", "--rounding", "hqq")])
def test_quantize_says_before_it_writes_that_levels_need_a_preprocessing(
    more: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = tiny_artifact(tmp_path).path, tmp_path / "levels.onnx"
    pictures = () if more else ("--calibrate", demo_recipe().data, "--calibration-pictures", "2")
    assert main(["quantize", str(model), *pictures, *more, "--levels", "-o", str(output)]) == 2
    message = capsys.readouterr().err
    assert f"{model.name}: expected a preprocessing that ends with" in message
    assert "name it with --preprocess" in message
    assert sorted(tmp_path.glob("levels*")) == []


def test_quantize_writes_levels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "m.onnx"
    shutil.copy(demo_recipe().model, model)
    shutil.copy(sidecar_path(Path(demo_recipe().model)), sidecar_path(model))
    output = tmp_path / "levels.onnx"
    words = ["quantize", str(model), "--calibrate", demo_recipe().data, "--calibration-pictures", "4", "--levels"]
    assert main([*words, "-o", str(output)]) == 0
    made = artifact_from_onnx(output)
    assert (made.input.dtype, made.quantised) == ("uint8", True)
    assert "QLinearConv   uint8 x int8" in capsys.readouterr().out
