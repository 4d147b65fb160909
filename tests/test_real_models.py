"""The main job on real ImageNet photographs and pretrained models, where they are to be had."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.progress import Progress
from harness.recipe import Recipe
from harness.report.build import Report
from harness.session import execute
from harness.speed import Speed

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


def test_calibration_on_another_folder_scores_every_picture(real_data: Path, tmp_path: Path) -> None:
    report = measure(real_data, tmp_path / "run", "squeezenet1.1.onnx", "imagenet", calibrate="val227")
    assert report.identity["calibration"]["pictures"] == 32
    assert report.identity["calibration"]["source"].endswith("val227")


def test_a_wrong_assumption_about_preprocessing_is_found_out(real_data: Path, tmp_path: Path) -> None:
    report = measure(real_data, tmp_path / "run", "mobilenetv2_tf.onnx", "")
    found = [finding["message"] for finding in report.findings if finding["check"] == "preset"]
    assert len(found) == 1
    assert "repeat with --preprocess tensorflow" in found[0]


def test_somebody_elses_quantised_file_is_certified_honestly(real_data: Path, tmp_path: Path) -> None:
    report = measure(real_data, tmp_path / "run", "mobilenetv2_tf.ptq.qdq.onnx", "tensorflow")
    assert list(report.contenders) == ["ort-cpu:simulated", "ort-cpu:integer"]
    certificate = report.certificates["ort-cpu:integer"]
    assert certificate["integer_fraction"] < 0.95
    reasons = [layer["reason"] for layer in certificate["layers"] if not layer["integer"]]
    assert all(reasons)
    assert json.dumps(report.describe())
