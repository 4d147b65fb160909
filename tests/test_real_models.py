"""The main job on real ImageNet photographs and pretrained models, where they are to be had."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from harness.mismatch import mismatch_from_store, mismatch_recipe
from harness.progress import Progress
from harness.recipe import Recipe
from harness.report.build import Report
from harness.session import execute
from harness.speed import Speed
from harness.store import Store
from noise.normalise import quantised

NOISES = ("clean", "gaussian_noise:3", "jpeg_compression:5", "resize:nearest")


def measure(data: Path, folder: Path, model: str, preprocess: str, calibrate: str = "") -> Report:
    recipe = Recipe(
        model=str(data / "models" / model),
        data=str(data / "imagenet" / "photos"),
        calibrate=str(data / "imagenet" / calibrate) if calibrate else "",
        calibration_pictures=32,
        preprocess=preprocess,
        noise=NOISES,
        limit=60,
    )
    return execute(recipe, folder, Speed(), Progress())


@pytest.mark.parametrize(
    ("model", "preprocess", "least"),
    [
        ("resnet18.onnx", "imagenet", 0.65),
        ("mobilenetv2_tf.onnx", "tensorflow", 0.80),
        ("squeezenet1.1.onnx", "", 0.45),
    ],
)
def test_real_models_run_on_integer_kernels_and_keep_their_accuracy(
    real_data: Path, tmp_path: Path, model: str, preprocess: str, least: float
) -> None:
    report = measure(real_data, tmp_path / "run", model, preprocess)
    assert report.pictures == 60
    assert report.failed_pictures == 0
    assert report.certificates["ort-cpu:integer"]["integer_fraction"] >= 0.95
    assert report.clean is not None
    accuracy = {name: estimate.value or 0 for name, estimate in report.clean.accuracy.items()}
    assert accuracy["ort-cpu:fp32"] >= least
    assert accuracy["ort-cpu:integer"] >= accuracy["ort-cpu:fp32"] - 0.12
    noisy = next(row for row in report.rows if row.name == "gaussian_noise:3")
    assert (noisy.accuracy["ort-cpu:fp32"].value or 0) < accuracy["ort-cpu:fp32"]


def test_equalised_and_corrected_biases_save_a_mobile_network_with_one_scale_per_weight(
    real_data: Path, tmp_path: Path
) -> None:
    """The finding of Nagel et al., 2019, on another network: useless without, usable with both."""
    recipe = Recipe(
        model=str(real_data / "models" / "mobilenetv1_0.25_bn.onnx"),
        data=str(real_data / "imagenet" / "photos"),
        calibrate=str(real_data / "imagenet" / "val227"),
        calibration_pictures=16,
        preprocess="tensorflow",
        weights="per-tensor",
        noise=("clean",),
        limit=60,
    )
    accuracy = []
    for name, improve in (("plain", ()), ("improved", ("cross-layer-equalisation", "bias-correction"))):
        report = execute(replace(recipe, improve=improve), tmp_path / name, Speed(), Progress())
        assert report.certificates["ort-cpu:integer"]["integer_fraction"] == 1.0
        assert report.clean is not None
        accuracy.append(report.clean.accuracy["ort-cpu:integer"].value or 0)
    assert accuracy[0] < 0.1
    assert accuracy[1] > 0.4


def test_calibration_on_another_folder_scores_every_picture(real_data: Path, tmp_path: Path) -> None:
    report = measure(real_data, tmp_path / "run", "squeezenet1.1.onnx", "imagenet", calibrate="val227")
    assert report.identity["calibration"]["pictures"] == 32
    assert report.identity["calibration"]["source"].endswith("val227")


@pytest.mark.parametrize(
    ("model", "preprocess"), [("resnet18.onnx", "imagenet"), ("mobilenetv2_tf.onnx", "tensorflow")]
)
def test_nearest_neighbour_is_the_worst_resize_and_misread_memory_worse_than_any(
    real_data: Path, tmp_path: Path, model: str, preprocess: str
) -> None:
    recipe = Recipe(
        model=str(real_data / "models" / model),
        data=str(real_data / "imagenet" / "photos"),
        calibrate=str(real_data / "imagenet" / "val227"),
        calibration_pictures=32,
        preprocess=preprocess,
        limit=60,
    )
    resizes = [f"resize:{name}" for name in ("nearest", "bilinear", "bicubic", "area", "lanczos4")]
    store = Store(tmp_path / "run")
    execute(mismatch_recipe(recipe, (*resizes, "layout")), store.folder, Speed(), Progress())
    found = mismatch_from_store(store)
    assert found.swaps[0].name == "layout:taken-for-the-other"
    flips = found.flip_ranks
    assert min(resizes, key=lambda name: flips[name]) == "resize:nearest"
    # Min-max calibration sees black and white in 32 photographs, so the engine's input has the step of all levels.
    params = next(step["params"] for step in found.identity["preprocessing"] if step["stage"] == "normalise")
    levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    scale, zero = input_quantisation(next(store.artifacts.glob("*.int8.*.onnx")))
    by_levels = quantised(**params, codes="uint8")(levels, np.random.default_rng(0))
    by_engine = quantised(**params, codes="uint8", step=scale, zero=zero)(levels, np.random.default_rng(0))
    assert np.allclose(by_levels, by_engine, rtol=1e-6)


def input_quantisation(path: Path) -> tuple[float, int]:
    """Scale and zero point of the QuantizeLinear that reads the input."""
    graph = onnx.load(path).graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    source = next(each.name for each in graph.input if each.name not in constants)
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == source)
    return float(constants[first.input[1]]), int(constants[first.input[2]])


def test_a_wrong_assumption_about_preprocessing_is_found_out(real_data: Path, tmp_path: Path) -> None:
    report = measure(real_data, tmp_path / "run", "mobilenetv2_tf.onnx", "")
    found = [finding["message"] for finding in report.findings if finding["check"] == "preset"]
    assert len(found) == 1
    assert "repeat with --preprocess tensorflow" in found[0]


@pytest.mark.parametrize(
    ("model", "least"), [("mobilenetv2_tf.ptq.qdq.onnx", 0.75), ("mobilenetv1_0.5_160.qat.qdq.onnx", 0.55)]
)
def test_somebody_elses_quantised_file_is_certified_honestly(
    real_data: Path, tmp_path: Path, model: str, least: float
) -> None:
    report = measure(real_data, tmp_path / "run", model, "tensorflow")
    assert list(report.contenders) == ["ort-cpu:simulated", "ort-cpu:integer"]
    assert report.clean is not None
    assert all((estimate.value or 0) >= least for estimate in report.clean.accuracy.values())
    certificate = report.certificates["ort-cpu:integer"]
    assert certificate["integer_fraction"] < 0.95
    reasons = [layer["reason"] for layer in certificate["layers"] if not layer["integer"]]
    assert all(reasons)
    assert json.dumps(report.describe())
