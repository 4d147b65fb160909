"""What each calibration method costs in accuracy: method by model by target, on real networks and photographs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.figure import Figure
from engines.artifact import Artifact
from engines.base import EngineOptions, call
from engines.onnx_file import artifact_from_onnx
from exporters.base import Quantisation, Source
from exporters.calibration import calibrate
from exporters.qdq import onnx_qdq
from harness.calibrate import observer_factory
from harness.estimate import paired_difference
from harness.exporting import quantisation_target
from harness.preprocess import compile_tree
from harness.registry import engine_opener
from harness.report.text import points
from harness.samples import samples_from_data
from noise.presets import pipeline_from_preset

# network -> the preset for photographs; with "-crop" for the pictures that are resized already
MODELS = {
    "resnet18": "imagenet",
    "mobilenetv2_tf": "tensorflow",
    "squeezenet1.1": "imagenet",
    "mobilenetv1_0.25_bn": "tensorflow",
}
METHODS = ("minmax", "moving-average", "percentile:99.99", "percentile:99.999", "entropy", "mse")
# target -> whether its file runs on integer kernels here; else as the simulation on the same engine
TARGETS = {"ort-cpu": True, "tensorrt": False}
CALIBRATED, BATCH, SEED = 100, 8, 0

Inputs = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Subject:
    """A float network with its pictures: float32 [n, 3, H, W], and their labels [n]."""

    name: str
    artifact: Artifact
    calibration: Inputs
    inputs: Inputs
    labels: npt.NDArray[np.int64]


def measure(folder: Path) -> Figure:
    """Calibrated on 100 resized validation pictures, scored on 300 photographs."""
    data = Path(os.environ["QHARNESS_DATA"])
    rows = [row for name in MODELS for row in _rows(_subject(data, name), folder)]
    best: dict[str, tuple[float, str]] = {}
    for row in rows:
        if row["target"] == "ort-cpu":
            best.setdefault(str(row["model"]), (-100.0, ""))
            best[str(row["model"])] = max(best[str(row["model"])], (float(row["change"]), str(row["method"])))
    told = "; ".join(f"{model}: {method}, {change:+.1f} points" for model, (change, method) in best.items())
    return Figure(
        "Accuracy by calibration method",
        rows,
        f"The best method of each network on ort-cpu: {told}. Changes are paired with FP32 on the same pictures, with "
        f"95 % intervals; 'tensorrt' is that target's file, simulated.",
    )


def _subject(data: Path, name: str) -> Subject:
    artifact = artifact_from_onnx(data / "models" / f"{name}.onnx")
    calibration, _ = _pictures(data / "imagenet" / "val227", artifact, f"{MODELS[name]}-crop", CALIBRATED)
    inputs, labels = _pictures(data / "imagenet" / "photos", artifact, MODELS[name], None)
    return Subject(name, artifact, calibration, inputs, labels)


def _pictures(folder: Path, artifact: Artifact, preset: str, count: int | None) -> tuple[Inputs, npt.NDArray[np.int64]]:
    tree = compile_tree([pipeline_from_preset(preset, size=artifact.size[0], layout=artifact.layout)])
    tensors, labels = [], []
    for sample in samples_from_data(str(folder), "", artifact, SEED).samples[:count]:
        for prepared in tree.walk_sample(sample, SEED):
            if prepared.tensor is not None:
                tensors.append(prepared.tensor)
                labels.append(sample.label)
    return np.stack(tensors), np.array(labels)


def _rows(subject: Subject, folder: Path) -> Iterator[Mapping[str, str | int | float]]:
    exact = _right(subject, subject.artifact, EngineOptions())
    for method in METHODS:
        pictures = (picture[None] for picture in subject.calibration)
        calibration = calibrate(subject.artifact, pictures, Source(method, {}, "", {}), observer_factory(method))
        for target, integer in TARGETS.items():
            path = folder / f"{subject.name}.{target}.onnx"
            wish, row = Quantisation(target, weight_bits=8), quantisation_target(target)
            made = onnx_qdq(subject.artifact, calibration, wish, row, path)
            right = _right(subject, made, EngineOptions(integer_kernels=integer))
            change = paired_difference(exact, right)
            print(f"{subject.name} {method} {target}: {points(change)}", flush=True)
            yield {
                "model": subject.name,
                "target": target,
                "method": method,
                "n": len(right),
                "FP32 %": round(100 * float(exact.mean()), 1),
                "INT8 %": round(100 * float(right.mean()), 1),
                "change": round(100 * float(right.mean() - exact.mean()), 1),
                "points [95 % interval]": points(change),
            }


def _right(subject: Subject, artifact: Artifact, options: EngineOptions) -> npt.NDArray[np.float64]:
    """1 or 0 for every picture."""
    with closing(engine_opener("ort-cpu")(artifact, options)) as engine:
        answers = [
            call(engine, {artifact.input.name: subject.inputs[start : start + BATCH]}).outputs[artifact.output.name]
            for start in range(0, len(subject.inputs), BATCH)
        ]
    right: npt.NDArray[np.float64] = (np.concatenate(answers).argmax(axis=1) == subject.labels).astype(np.float64)
    return right
