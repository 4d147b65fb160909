"""What each improvement does to INT8 accuracy, clean and under noise, on real networks and photographs.

`exporters.improvements.equalisation.BIAS_SHARE` was chosen on 60 of the photographs that are scored here, so
equalisation's gain on them is no gain on pictures that nobody had looked at.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.figure import Figure
from engines.artifact import Artifact
from engines.base import EngineOptions, call
from engines.onnx_file import artifact_from_onnx
from exporters.base import PER_CHANNEL, PER_TENSOR
from exporters.improvements.adaround import STEPS
from exporters.improvements.equalisation import BIAS_SHARE
from harness.calibrate import CalibrationJob, calibration_from_job, job_from_recipe
from harness.conditions import conditions_from_recipe, pipeline_from_recipe
from harness.estimate import Estimate, paired_difference, proportion
from harness.improve import improved_job, quantised_file
from harness.preprocess import compile_tree
from harness.progress import Progress
from harness.recipe import Recipe, quantisation_from_recipe
from harness.registry import engine_opener
from harness.report.text import interval, points
from harness.samples import SampleSet, samples_from_data, unlabelled_from_data

# network -> the preset for photographs; with "-crop" for the pictures that are resized already
MODELS = {"mobilenetv1_0.25_bn": "tensorflow", "mobilenetv2_tf": "tensorflow", "resnet18": "imagenet"}
ADAROUND_STEPS = 100
IMPROVEMENTS = (
    (),
    ("cross-layer-equalisation",),
    ("bias-correction",),
    ("cross-layer-equalisation", "bias-correction"),
    (f"adaround:{ADAROUND_STEPS}",),
)
CLEAN = "clean"
BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"
NOISES = ("gaussian_noise:3", "defocus_blur:3", "jpeg_compression:3")
CALIBRATED, SCORED, BATCH, SEED = 16, 100, 4, 0

Row = Mapping[str, str | int | float]
Right = Mapping[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Subject:
    """A float network with its pictures.

    Args:
        name: in the table.
        artifact: the float network.
        recipe: what it is calibrated on.
        inputs: condition -> float32 [n, 3, H, W].
        labels: int64 [n].
    """

    name: str
    artifact: Artifact
    recipe: Recipe
    inputs: Mapping[str, npt.NDArray[np.float32]]
    labels: npt.NDArray[np.int64]


def measure(folder: Path) -> Figure:
    """Calibrated on resized validation pictures, scored on photographs; weights per tensor and per channel."""
    return figure(
        [row for name in MODELS for weights in (PER_TENSOR, PER_CHANNEL) for row in _rows(name, weights, folder)]
    )


def figure(rows: Sequence[Row]) -> Figure:
    """The rows and what they add up to."""
    return Figure("Accuracy by improvement", rows, f"{best(rows)} {explained(rows)} {chosen()}")


def _rows(name: str, weights: str, folder: Path) -> Iterator[Row]:
    data = Path(os.environ["QHARNESS_DATA"])
    model, pictures = str(data / "models" / f"{name}.onnx"), data / "imagenet"
    scored = Recipe(model, str(pictures / "photos"), preprocess=MODELS[name], limit=SCORED, seed=SEED)
    calibrated = replace(scored, calibrate=str(pictures / "val227"), preprocess=f"{MODELS[name]}-crop")
    return compared(subject(name, scored, calibrated), weights, IMPROVEMENTS, folder)


def subject(name: str, scored: Recipe, calibrated: Recipe) -> Subject:
    """The network of two recipes: how it is scored, and what it is calibrated on."""
    artifact = artifact_from_onnx(Path(scored.model))
    pipeline, _ = pipeline_from_recipe(scored, artifact)
    conditions = conditions_from_recipe((CLEAN, *NOISES), scored, pipeline).chosen
    samples = samples_from_data(scored.data, "", artifact, SEED).samples[: scored.limit]
    tree = compile_tree([condition.pipeline for condition in conditions])
    tensors: dict[str, list[npt.NDArray[np.float32]]] = {condition.name: [] for condition in conditions}
    for sample in samples:
        for prepared in tree.walk_sample(sample, SEED):
            if prepared.tensor is None:
                raise RuntimeError(f"{sample.id} of {scored.data} cannot be read: {prepared.error}")
            tensors[conditions[prepared.condition].name].append(prepared.tensor)
    labels = np.array([sample.label for sample in samples], np.int64)
    return Subject(name, artifact, calibrated, {key: np.stack(each) for key, each in tensors.items()}, labels)


def compared(made: Subject, weights: str, improvements: Sequence[tuple[str, ...]], folder: Path) -> Iterator[Row]:
    """One row for the INT8 file without improvements, which comes first, and one for each choice of them."""
    exact = _right(made, made.artifact)
    plain: Right = {}
    for names in improvements:
        right = _right(made, _int8(made, weights, names, folder))
        plain = plain or right
        row = _row(made, weights, names, (exact, plain, right))
        print(row, flush=True)
        yield row


def best(rows: Sequence[Row]) -> str:
    """Of each network and kind of weight, the highest accuracy under noise of those that are shown to raise it."""
    sentences = []
    for model, weights in dict.fromkeys((row["model"], row["weights"]) for row in rows):
        mine = [row for row in rows if (row["model"], row["weights"]) == (model, weights)]
        shown = [row for row in mine if row["noisy against none"] == BETTER]
        if not shown:
            sentences.append(f"{model}, {weights}: nothing is shown to help.")
            continue
        first, top = mine[0], max(shown, key=lambda row: float(row["noisy %"]))
        sentences.append(
            f"{model}, {weights}: {top['improvements']}, clean {first['clean %']} to {top['clean %']} %, noisy "
            f"{first['noisy %']} to {top['noisy %']} %."
        )
    return (
        "Highest accuracy under noise of what is shown to raise it (the paired interval leaves 0 out), and INT8 "
        "without improvements before it: " + " ".join(sentences)
    )


def explained(rows: Sequence[Row]) -> str:
    """What the columns are."""
    return (
        f"\n\nOn ONNX Runtime's integer kernels, target ort-cpu, ranges by minmax from {CALIBRATED} pictures; scored "
        f"on {rows[0]['n']} others. 'noisy' is the mean over {', '.join(NOISES)}. Brackets hold 95 % intervals; points "
        f"are paired with the INT8 file without improvements, on the same pictures. Few pictures: an interval that "
        f"holds 0 says that nothing was shown."
    )


def chosen() -> str:
    """What was not as a user has it, and what had looked at the scored pictures before."""
    return (
        f"AdaRound has {ADAROUND_STEPS} steps here; {STEPS} are the default, which was not measured. The share of a "
        f"bias that counts as a weight in cross-layer-equalisation, {BIAS_SHARE}, was chosen on 60 of the scored "
        f"photographs."
    )


def _int8(made: Subject, weights: str, names: tuple[str, ...], folder: Path) -> Artifact:
    """As ``qharness quantize --improve`` writes it."""
    recipe = replace(made.recipe, weights=weights, weight_bits=8, improve=names)
    job = improved_job(_job(made, recipe), names, folder / "improved.onnx", Progress())
    calibration = calibration_from_job(job, Progress())
    wish = quantisation_from_recipe(recipe, "ort-cpu")
    return quantised_file(job, calibration, wish, folder / "int8.onnx", Progress())


def _job(made: Subject, recipe: Recipe) -> CalibrationJob:
    everything = unlabelled_from_data(recipe.calibrate, SEED)
    samples = SampleSet(everything.source, everything.samples[:CALIBRATED])
    pipeline, _ = pipeline_from_recipe(recipe, made.artifact)
    return job_from_recipe(recipe, made.artifact, pipeline, samples)[0]


def _right(made: Subject, artifact: Artifact) -> Right:
    """Condition -> 1 or 0 for every picture; "noisy" is the share of the noises under which its answer was right."""
    right = {}
    with closing(engine_opener("ort-cpu")(artifact, EngineOptions(threads=os.cpu_count() or 1))) as engine:
        for name, inputs in made.inputs.items():
            batches = [inputs[start : start + BATCH] for start in range(0, len(inputs), BATCH)]
            answers = [call(engine, {artifact.input.name: each}).outputs[artifact.output.name] for each in batches]
            right[name] = (np.concatenate(answers).argmax(axis=1) == made.labels).astype(np.float64)
    return {**right, "noisy": np.mean([right[name] for name in NOISES], axis=0)}


def _row(made: Subject, weights: str, names: tuple[str, ...], answers: tuple[Right, Right, Right]) -> Row:
    """Args:
    answers: of the float network, of the INT8 file without improvements, and of this file.
    """
    exact, plain, right = answers
    row: dict[str, str | int | float] = {
        "model": made.name,
        "weights": weights,
        "improvements": ", ".join(names) or "none",
        "n": len(made.labels),
    }
    for name in (CLEAN, "noisy"):
        estimate = proportion(right[name])
        row[f"{name} FP32 %"] = round(100 * float(exact[name].mean()), 1)
        row[f"{name} %"] = round(100 * float(right[name].mean()), 1)
        row[f"{name} [95 % interval]"] = interval(estimate)
        row[f"{name} points from none"] = points(paired_difference(plain[name], right[name])) if names else "-"
    row["noisy against none"] = _verdict(paired_difference(plain["noisy"], right["noisy"])) if names else "-"
    for name in NOISES:
        row[f"{name} %"] = round(100 * float(right[name].mean()), 1)
    return row


def _verdict(change: Estimate) -> str:
    """What an interval shows of a change."""
    if change.low is not None and change.low > 0:
        return BETTER
    return WORSE if change.high is not None and change.high < 0 else UNDECIDED
