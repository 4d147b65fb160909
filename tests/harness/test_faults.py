"""Bad input is counted or refused in one message; nothing that was measured is lost."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from engines.base import EngineError, EngineOptions
from engines.ort import session_options
from exporters.base import ExportError
from harness.errors import HarnessError
from harness.recipe import Recipe
from harness.report.build import Report
from harness.store import Store


@pytest.fixture
def data(small: Recipe, tmp_path: Path) -> Path:
    """Pictures that a test may spoil."""
    return Path(shutil.copytree(small.data, tmp_path / "data"))


def encoded(array: np.ndarray, mode: str, form: str) -> bytes:
    stored = io.BytesIO()
    Image.fromarray(array).convert(mode).save(stored, format=form)
    return stored.getvalue()


def test_pictures_that_cannot_be_decoded_are_rows_and_count_as_wrong(
    small: Recipe, data: Path, run_recipe: Callable[..., Report], tmp_path: Path
) -> None:
    first, second, third = sorted(data.glob("*/*.jpg"))[:3]
    first.write_bytes(first.read_bytes()[:2000])
    second.write_text("this is no picture")
    third.write_bytes(b"")
    report = run_recipe(replace(small, data=str(data), noise=("clean", "brightness:1")))
    assert report.pictures == 16
    assert report.failed_pictures == 3
    assert report.clean is not None
    for estimate in report.clean.accuracy.values():
        assert (estimate.n, estimate.failed) == (16, 3)
        assert estimate.value is not None
        assert estimate.value <= 13 / 16
    messages = " ".join(error["error"] for error in report.errors)
    assert "truncated" in messages
    assert "not a picture" in messages
    assert "3 failed and count as wrong" in (tmp_path / "run" / "report.md").read_text()


def test_unusual_pictures_are_converted_and_listed(
    small: Recipe, data: Path, run_recipe: Callable[..., Report], tmp_path: Path
) -> None:
    first, second, third = sorted(data.glob("*/*.jpg"))[:3]
    pixels = np.asarray(Image.open(first))
    first.write_bytes(encoded(pixels, "CMYK", "JPEG"))
    second.write_bytes(encoded(np.asarray(Image.open(second)), "L", "JPEG"))
    deep = np.asarray(Image.open(third).convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(third.with_suffix(".png"))
    third.unlink()
    report = run_recipe(replace(small, data=str(data), noise=("clean",)))
    assert report.failed_pictures == 0
    assert report.sources["JPEG CMYK"] == 1
    assert report.sources["JPEG L"] == 1
    assert report.sources["PNG I;16"] == 1
    assert "JPEG CMYK" in (tmp_path / "run" / "report.html").read_text()


def test_a_picture_that_vanishes_during_the_run_is_counted(small: Recipe, data: Path, tmp_path: Path) -> None:
    from harness.batches import Bundle, Preparer
    from harness.line import Line
    from harness.meter import Meter
    from harness.plan import plan
    from harness.prepare import prepare
    from harness.progress import Progress

    made = plan(replace(small, data=str(data), noise=("clean", "brightness:1"), engines=("ort-cpu:fp32",)))
    line = Line(made, prepare(made, tmp_path, Progress()), 4, Meter())
    Path(made.scored.samples[0].locator.path).unlink()
    preparation, bundle = made.preparation(4), Bundle(0, made.scored.samples[:1])
    (batch,) = Preparer(preparation).batches(bundle, preparation.place)
    records = [record for _, record in line.measure(bundle, batch)]
    assert len(records) == 2
    assert all(record.error and "No such file" in record.error for record in records)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: [path.unlink() for path in data.glob("*/*")], "holds no pictures"),
        (shutil.rmtree, "there is no data folder"),
        (lambda data: [shutil.rmtree(path) for path in data.iterdir()], "holds no pictures"),
        (lambda data: next(data.iterdir()).rename(data / "zebra"), "not among the classes that shapes.onnx declares"),
    ],
)
def test_a_folder_that_is_no_labelled_set_is_refused(
    small: Recipe, data: Path, run_recipe: Callable[..., Report], change: Callable[[Path], object], message: str
) -> None:
    change(data)
    with pytest.raises(HarnessError, match=message):
        run_recipe(replace(small, data=str(data)))


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_a_model_with_a_fixed_batch_gives_the_same_answers(
    small: Recipe, finished: Path, run_recipe: Callable[..., Report], tmp_path: Path, batch: int
) -> None:
    model = onnx.load(small.model)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    fixed = tmp_path / "fixed.onnx"
    onnx.save(model, fixed)
    sidecar = Path(small.model + ".json").read_text()
    (tmp_path / "fixed.onnx.json").write_text(
        "\n".join(line for line in sidecar.splitlines() if '"sha256"' not in line)
    )
    report = run_recipe(replace(small, model=str(fixed)))
    original = Store(finished).query("select sample, prediction from records order by all")
    assert Store(tmp_path / "run").query("select sample, prediction from records order by all") == original
    assert report.failed_pictures == 0


def test_a_bare_model_with_a_large_fixed_batch_is_checked_too(
    small: Recipe, run_recipe: Callable[..., Report], tmp_path: Path
) -> None:
    model = onnx.load(small.model)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 64
    onnx.save(model, tmp_path / "fixed.onnx")
    recipe = replace(small, model=str(tmp_path / "fixed.onnx"), noise=("clean",), limit=2)
    assert [finding["check"] for finding in run_recipe(recipe).findings] == ["preprocessing"]


def test_a_model_that_onnxruntime_refuses_is_one_message(
    small: Recipe, run_recipe: Callable[..., Report], tmp_path: Path
) -> None:
    model = onnx.load(small.model)
    model.graph.node[0].op_type = "Convolute"
    onnx.save(model, tmp_path / "strange.onnx")
    shutil.copy(small.model + ".json", tmp_path / "strange.onnx.json")
    sidecar = json.loads((tmp_path / "strange.onnx.json").read_text())
    del sidecar["sha256"]
    (tmp_path / "strange.onnx.json").write_text(json.dumps(sidecar))
    with pytest.raises(ExportError, match=r"ONNX Runtime .* cannot open .*strange.onnx"):
        run_recipe(replace(small, model=str(tmp_path / "strange.onnx")))


@pytest.mark.parametrize(
    ("stage", "params", "message"),
    [
        ("normalise", {"mean": ["a", 1, 1]}, "normalise.float32 refuses"),
        ("crop", {"size": -3}, "size of a crop must be a positive whole number of pixels; got -3"),
        ("crop", {"size": "224"}, "got '224'"),
        ("resize", {"geometry": "round"}, "must be 'shorter_side', 'square' or 'letterbox'; got 'round'"),
        ("decode", None, "declares has no decode step"),
    ],
)
def test_a_mistake_in_the_declared_preprocessing_is_named(
    small: Recipe, run_recipe: Callable[..., Report], tmp_path: Path, stage: str, params: Any, message: str
) -> None:
    sidecar = json.loads(Path(small.model + ".json").read_text())
    steps = sidecar["preprocessing"]
    if params is None:
        sidecar["preprocessing"] = [step for step in steps if step["stage"] != stage]
    else:
        next(step for step in steps if step["stage"] == stage)["params"].update(params)
    shutil.copy(small.model, tmp_path / "m.onnx")
    (tmp_path / "m.onnx.json").write_text(json.dumps(sidecar))
    with pytest.raises(HarnessError, match=message):
        run_recipe(replace(small, model=str(tmp_path / "m.onnx")))


def test_a_strip_that_would_be_resized_to_gigabytes_is_a_failed_picture(
    small: Recipe, data: Path, run_recipe: Callable[..., Report]
) -> None:
    first = sorted(data.glob("*/*.jpg"))[0]
    Image.fromarray(np.zeros((4, 6000, 3), np.uint8)).save(first.with_suffix(".png"))
    report = run_recipe(replace(small, data=str(data), noise=("clean",)))
    assert report.failed_pictures == 1
    assert "would be resized to 256 x 384000 pixels" in report.errors[0]["error"]


def test_copies_of_scored_pictures_may_not_calibrate(
    small: Recipe, data: Path, run_recipe: Callable[..., Report]
) -> None:
    with pytest.raises(HarnessError, match="8 calibration pictures have the bytes of scored ones"):
        run_recipe(replace(small, calibrate=str(data)))


def test_a_set_that_holds_a_picture_twice_runs_and_says_so(
    small: Recipe, data: Path, run_recipe: Callable[..., Report]
) -> None:
    for path in sorted(data.glob("*/*.jpg")):
        shutil.copy(path, path.with_name("copy.jpg"))
    report = run_recipe(replace(small, data=str(data), calibrate="", noise=("clean",)))
    assert {finding["check"] for finding in report.findings} == {"calibration"}
    assert "have the bytes of scored ones" in report.findings[0]["message"]
    assert "calibrated on 6 pictures: ranges of so few are accidents" in report.findings[1]["message"]


def test_a_simulation_that_ran_on_integers_is_refused(
    small: Recipe, run_recipe: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = session_options(EngineOptions(integer_kernels=True))
    monkeypatch.setattr("engines.ort_certificate.session_options", lambda options, config: deaf)
    with pytest.raises(EngineError, match=r"ort-cpu:simulated should run in floating point, but [\d,]+ of"):
        run_recipe(replace(small, noise=("clean",), limit=2))


def test_probabilities_give_the_same_answers_as_logits(
    small: Recipe, run_recipe: Callable[..., Report], tmp_path: Path
) -> None:
    model = onnx.load(small.model)
    model.graph.output[0].name = "probabilities"
    model.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    onnx.save(model, tmp_path / "softmax.onnx")
    recipe = replace(small, noise=("clean",), engines=("ort-cpu:fp32",))
    run_recipe(recipe, "logits")
    run_recipe(replace(recipe, model=str(tmp_path / "softmax.onnx"), preprocess="imagenet"), "softmax")
    softmax, logits = Store(tmp_path / "softmax"), Store(tmp_path / "logits")
    assert softmax.read_json("run.json")["identity"]["model"]["output_kind"] == "probabilities"
    for columns in ("prediction", "top5", "round(log_probability, 3)", "round(confidence, 3)"):
        query = f"select sample, {columns} from records order by all"
        assert softmax.query(query) == logits.query(query)
