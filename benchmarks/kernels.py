"""What the same INT8 file answers on another processor: this one against an emulated Haswell, with 8 and 7-bit weights.

Needs QEMU (``apt-get install qemu-user``) and, in ``QHARNESS_DATA``, real models and pictures. Emulation takes
seconds for a picture, so the pictures are few; what differs, differs on most of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.figure import Figure
from engines.artifact import Artifact
from engines.base import Engine, EngineOptions, call
from engines.saturation import saturating_layers
from exporters.base import Quantisation
from exporters.qdq import onnx_qdq
from exporters.targets import ort_cpu
from harness.calibrate import calibration_from_job, job_from_recipe
from harness.plan import Plan, plan
from harness.progress import Progress
from harness.recipe import Recipe
from harness.registry import engine_opener
from noise.presets import pipeline_from_preset

MODELS = {"resnet18": "imagenet", "mobilenetv2_tf": "tensorflow"}
NOISES = ("clean", "gaussian_noise:3", "impulse_noise:5")
CALIBRATION_PICTURES = 100
# 7-bit weights leave nothing to see, so fewer pictures show it.
PICTURES = {8: 32, 7: 6}

Outputs = npt.NDArray[np.float32]
Row = Mapping[str, str | int | float]


@dataclass
class Answers:
    """The logits of one file under one condition: float32 [pictures, 1000] each, and the true classes."""

    labels: list[int]
    fp32: list[Outputs]
    native: list[Outputs]
    haswell: list[Outputs]


def measure(folder: Path) -> Figure:
    """Logits and predictions on both processors, for two networks, clean and under two noises."""
    data = Path(os.environ["QHARNESS_DATA"])
    with ThreadPoolExecutor(len(MODELS)) as pool:
        tables = pool.map(lambda model: _rows(data, model, folder), MODELS)
        rows = [row for table in tables for row in table]
    worst = max((row for row in rows if row["weights"] == "8 bits"), key=lambda row: row["mean abs d / std"])
    safe = max(float(row["max abs d"]) for row in rows if row["weights"] == "7 bits")
    return Figure(
        "INT8 on this processor and on an emulated Haswell (AVX2)",
        rows,
        f"The largest change is {worst['mean abs d / std']} standard deviations of the logits, with "
        f"{worst['flips']} of {worst['n']} predictions changed ({worst['model']}, {worst['condition']}); "
        f"with 7-bit weights logits differ by at most {safe:.2g}. d is the logit on the Haswell minus the one here, "
        f"std that of the logits here. 'quantisation flips' are predictions that differ between FP32 and INT8, here.",
    )


def _rows(data: Path, model: str, folder: Path) -> list[Row]:
    """The rows of one network, 8-bit weights first."""
    given = data / "models" / f"{model}.onnx"
    recipe = Recipe(
        model=str(given),
        data=str(data / "imagenet" / "photos"),
        calibrate=str(data / "imagenet" / "val227"),
        calibration_pictures=CALIBRATION_PICTURES,
        preprocess=MODELS[model],
        noise=NOISES,
        limit=max(PICTURES.values()),
    )
    made = plan(recipe)
    rows: list[Row] = []
    for bits, count in PICTURES.items():
        file = _int8(made, bits, folder)
        layers = saturating_layers(file.path)
        print(f"{model}, {bits}-bit weights: {len(layers)} layers may saturate", flush=True)
        for condition, answers in _answers(made, file, count).items():
            about: Row = {"model": model, "weights": f"{bits} bits", "layers that may saturate": len(layers)}
            rows.append({**about, **_compared(condition, answers)})
    return rows


def _int8(made: Plan, bits: int, folder: Path) -> Artifact:
    """The INT8 file, its ranges measured on pictures that have the size of the crop already."""
    pipeline = pipeline_from_preset(f"{made.recipe.preprocess}-crop", size=made.artifact.size[0])
    job, _ = job_from_recipe(made.recipe, made.artifact, pipeline, made.calibration.samples)
    calibration = calibration_from_job(job, Progress())
    path = folder / f"{made.artifact.path.stem}.{bits}.onnx"
    return onnx_qdq(made.artifact, calibration, Quantisation("ort-cpu", weight_bits=bits), ort_cpu(), path)


def _answers(made: Plan, file: Artifact, count: int) -> dict[str, Answers]:
    """Every condition's logits, from the float file here and the quantised one on both processors."""
    (tree,) = made.preparation(1).trees().values()
    answers = {condition.name: Answers([], [], [], []) for condition in made.distinct}
    with ExitStack() as stack:
        opened = [
            stack.enter_context(closing(engine_opener(engine)(artifact, EngineOptions())))
            for engine, artifact in (("ort-cpu", made.artifact), ("ort-cpu", file), ("ort-haswell", file))
        ]
        for sample in islice(made.scored.samples, count):
            for prepared in tree.walk_sample(sample, made.recipe.seed):
                assert prepared.tensor is not None
                kept = answers[made.distinct[prepared.condition].name]
                kept.labels.append(sample.label)
                for logits, engine in zip((kept.fp32, kept.native, kept.haswell), opened, strict=True):
                    logits.append(_logits(engine, prepared.tensor))
    return answers


def _logits(engine: Engine, picture: npt.NDArray[np.float32]) -> Outputs:
    outputs: Outputs = call(engine, {engine.inputs[0].name: picture[None]}).outputs[engine.outputs[0].name][0]
    return outputs


def _compared(condition: str, answers: Answers) -> Row:
    labels = np.array(answers.labels)
    fp32, native, haswell = (np.stack(each) for each in (answers.fp32, answers.native, answers.haswell))
    distance = np.abs(haswell - native)
    return {
        "condition": condition,
        "n": len(labels),
        "mean abs d": round(float(distance.mean()), 4),
        "max abs d": round(float(distance.max()), 3),
        "mean abs d / std": round(float(distance.mean() / native.std()), 4),
        "flips": int((haswell.argmax(1) != native.argmax(1)).sum()),
        "right here": int((native.argmax(1) == labels).sum()),
        "right on Haswell": int((haswell.argmax(1) == labels).sum()),
        "quantisation flips": int((fp32.argmax(1) != native.argmax(1)).sum()),
    }
