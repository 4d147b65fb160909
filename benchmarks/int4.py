"""What 4-bit weights cost in accuracy, and what they give in size and speed, on ONNX Runtime's CPU provider.

A small vision transformer is trained first (`benchmarks.vit`, PyTorch, some minutes). Convolutional networks are added
where QHARNESS_DATA names a folder with ``models`` and ``imagenet`` pictures; their convolutions of one pixel are
rewritten as MatMul.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.figure import Figure
from benchmarks.vit import trained
from engines.artifact import Artifact
from engines.base import EngineOptions, call
from engines.onnx_file import artifact_from_onnx
from engines.ort import open_cpu
from exporters.base import Quantisation, Source
from exporters.calibration import calibrate
from exporters.int4 import QuantiseRest, int4_weights
from exporters.int4_options import BLOCKS, METHODS, Int4Options
from exporters.qdq import onnx_qdq
from exporters.ranges.minmax import MinMax
from exporters.targets import ort_cpu
from harness.demo.embedded import demo_recipe
from harness.preprocess import compile_tree
from harness.samples import samples_from_data
from noise.base import Pipeline
from noise.presets import pipeline_from_preset

Floats = npt.NDArray[np.float32]
Row = dict[str, str | int | float]

CALIBRATED, SCORED, BATCH, SEED = 64, 224, 8, 0
THREADS = 1
TIMED_PAIRS = 10
# network -> its preset for pictures that are already resized
CONVOLUTIONAL = {"squeezenet1.1": "imagenet-crop", "mobilenetv2_tf": "tensorflow-crop"}
SOURCE = Source("minmax", {}, "", {})  # of files that are thrown away


@dataclass(frozen=True)
class Subject:
    """A float network with the pictures for it.

    Args:
        name: in the table.
        artifact: the float network.
        calibration: float32 [pictures, 3, H, W], not scored.
        inputs: float32 [pictures, 3, H, W].
        labels: int64 [pictures].
        pointwise: whether its convolutions of one pixel are rewritten.
    """

    name: str
    artifact: Artifact
    calibration: Floats
    inputs: Floats
    labels: npt.NDArray[np.int64]
    pointwise: bool


def measure(folder: Path) -> Figure:
    """Every method, block and kind of zero point on each network; activations in float and, for some, in INT8."""
    rows = [row for subject in _subjects(folder) for row in _rows(subject, folder)]
    return Figure(
        "INT4 weights",
        rows,
        f"{_best(rows)}\n\n"
        f"{SCORED} pictures ({CALIBRATED} others for the methods that look at pictures), batch {BATCH}, {THREADS} "
        "thread. Logit error: mean absolute difference to the float network in standard deviations of its logits; same "
        "answer: share of pictures with the float network's first class. Level: 0 leaves activations in float, 4 lets "
        f"the kernel round them to INT8. Speed: calls in turn with the float network, best of {TIMED_PAIRS}. In the "
        "convolutional networks the convolutions of one pixel were rewritten as MatMul.",
    )


def _best(rows: list[Row]) -> str:
    """Of each network, the INT4 file that answers most like the float network, beside its INT8 file."""
    sentences = []
    for name in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == name]
        int8 = next(row for row in mine if row["weights"] == "INT8")
        int4 = max((row for row in mine if "INT4" in str(row["weights"])), key=lambda row: row["same_answer_percent"])
        sentences.append(
            f"{name}: {int4['weights']}, block {int4['block']}, {int4['zero points']}, level {int4['level']}, gives "
            f"the float network's answer to {int4['same_answer_percent']} % of the pictures, at "
            f"{int4['speed_to_float']} times its speed; INT8 to {int8['same_answer_percent']} %, at "
            f"{int8['speed_to_float']} times."
        )
    return " ".join(sentences)


def _subjects(folder: Path) -> Iterator[Subject]:
    recipe = demo_recipe()
    yield _subject(
        "vision transformer", trained(folder / "vit.onnx", os.cpu_count() or 1), recipe.calibrate, recipe.data
    )
    data = os.environ.get("QHARNESS_DATA")
    for name in CONVOLUTIONAL if data else ():
        pictures = Path(str(data)) / "imagenet" / "val227"
        artifact = artifact_from_onnx(Path(str(data)) / "models" / f"{name}.onnx")
        yield _subject(name, artifact, str(pictures), str(pictures))


def _subject(name: str, artifact: Artifact, calibrate: str, scored: str) -> Subject:
    preset = CONVOLUTIONAL.get(name, "imagenet")
    pipeline = pipeline_from_preset(preset, size=artifact.size[0])
    skipped = SCORED if calibrate == scored else 0
    inputs, labels = _pictures(Path(scored), artifact, pipeline, slice(0, SCORED))
    calibration, _ = _pictures(Path(calibrate), artifact, pipeline, slice(skipped, skipped + CALIBRATED))
    return Subject(name, artifact, calibration, inputs, labels, name in CONVOLUTIONAL)


def _pictures(
    folder: Path, artifact: Artifact, pipeline: Pipeline, which: slice
) -> tuple[Floats, npt.NDArray[np.int64]]:
    tree = compile_tree([pipeline])
    samples = samples_from_data(str(folder), "", artifact, SEED).samples[which]
    tensors = [prepared.tensor for sample in samples for prepared in tree.walk_sample(sample, SEED)]
    ready = [tensor for tensor in tensors if tensor is not None]
    if len(ready) != len(samples):
        raise RuntimeError(f"{len(samples) - len(ready)} of {len(samples)} pictures in {folder} cannot be read")
    return np.stack(ready).astype(np.float32), np.array([sample.label for sample in samples], np.int64)


def _rows(subject: Subject, folder: Path) -> Iterator[Row]:
    exact = _logits(subject, subject.artifact)
    yield _row(subject, subject.artifact, ("float32", "-", "-", "-"), exact)
    int8 = _int8(subject, subject.artifact, folder / "int8.onnx")
    yield _row(subject, int8, ("INT8", "-", "-", "-"), exact)
    for options in _variants(subject.pointwise):
        written = int4_weights(
            subject.artifact, "ort-cpu", options, folder / "int4.onnx", _one_by_one(subject), _int8_rest(subject)
        )
        weights = f"INT4 {options.method}" + (", rest INT8" if options.rest == "int8" else "")
        symmetry = "symmetric" if options.symmetric else "asymmetric"
        kind = (weights, options.block, symmetry, options.accuracy_level)
        yield _row(subject, written, kind, exact)


def _variants(pointwise: bool) -> Iterator[Int4Options]:
    for method in METHODS:
        for block in BLOCKS:
            for symmetric in (True, False):
                yield Int4Options(block, symmetric, method, pointwise=pointwise)
    for block in BLOCKS:
        yield Int4Options(block, True, "awq-clip", accuracy_level=4, pointwise=pointwise)
    yield Int4Options(32, True, "awq-clip", accuracy_level=4, rest="int8", pointwise=pointwise)


def _int8_rest(subject: Subject) -> QuantiseRest:
    def quantise_rest(halfway: Artifact, path: Path) -> Artifact:
        return _int8(subject, halfway, path)

    return quantise_rest


def _int8(subject: Subject, artifact: Artifact, path: Path) -> Artifact:
    calibration = calibrate(artifact, _one_by_one(subject), SOURCE, MinMax)
    return onnx_qdq(artifact, calibration, Quantisation("ort-cpu"), ort_cpu(), path)


def _one_by_one(subject: Subject) -> list[Floats]:
    return [subject.calibration[index : index + 1] for index in range(len(subject.calibration))]


def _logits(subject: Subject, artifact: Artifact) -> Floats:
    """float32 [pictures, classes]."""
    engine = open_cpu(artifact, EngineOptions(threads=THREADS))
    batches = [subject.inputs[first : first + BATCH] for first in range(0, len(subject.inputs), BATCH)]
    logits = [call(engine, {artifact.input.name: batch}).outputs[artifact.output.name] for batch in batches]
    engine.close()
    return np.concatenate(logits)


def _speed(subject: Subject, artifact: Artifact) -> float:
    """How many times as fast as the float network: best times of calls in turn, for the machine is shared."""
    feeds = {artifact.input.name: subject.inputs[:BATCH]}
    engines = [open_cpu(each, EngineOptions(threads=THREADS)) for each in (subject.artifact, artifact)]
    times_ns = [[call(engine, feeds).wall_ns for engine in engines] for _ in range(TIMED_PAIRS + 1)]
    exact_ns, ours_ns = np.min(times_ns[1:], axis=0)  # the first call also allocates
    return float(exact_ns / ours_ns)


def _row(subject: Subject, artifact: Artifact, kind: tuple[object, ...], exact: Floats) -> Row:
    logits = _logits(subject, artifact)
    chosen = logits.argmax(axis=1)
    error = np.abs(logits - exact).mean() / exact.std()
    weights, block, zero_points, level = (each if isinstance(each, int) else str(each) for each in kind)
    return {
        "network": subject.name,
        "weights": weights,
        "block": block,
        "zero points": zero_points,
        "level": level,
        "top1_percent": round(100 * float((chosen == subject.labels).mean()), 1),
        "same_answer_percent": round(100 * float((chosen == exact.argmax(axis=1)).mean()), 1),
        "logit_error": round(float(error), 4),
        "file_MB": round(artifact.path.stat().st_size / 1e6, 2),
        "speed_to_float": round(_speed(subject, artifact), 2),
    }
