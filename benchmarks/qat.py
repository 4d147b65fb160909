"""What training with 8, 4 and 2 bits by each method costs in clean and in noisy accuracy, on the demo's network.

Training pictures are drawn; scored are the embedded ones, each prepared once for all networks. Needs PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console

from benchmarks.figure import Figure
from engines.artifact import Artifact
from engines.base import Engine, EngineOptions, call
from exporters import TRAINED
from exporters.qat.options import Bits, Training, Wish, rate_of_batch
from harness.calibrate import CalibrationJob, calibration_from_job
from harness.commands.files import job_for_file
from harness.conditions import Condition, conditions_from_recipe
from harness.demo.embedded import demo_recipe
from harness.demo.shapes import write_pictures
from harness.estimate import Estimate, paired_difference, proportion
from harness.exporting import qdq_writer, quantisation_target
from harness.inspection import random_input
from harness.mce import ALEXNET_ERROR
from harness.preprocess import compile_tree
from harness.progress import Progress
from harness.recipe import Recipe, quantisation_from_recipe
from harness.registry import engine_certifier, engine_opener
from harness.samples import SampleSet, samples_from_data
from harness.train import trained_from_job

ENGINE = "ort-cpu"
BITS = (8, 4, 2)
SEVERITY = 3
AT_ONCE = 16
# The float network was trained on these and 408 more of each class.
DRAWN_SEED, DRAWN_SPLIT = 20, "train"
# The learning rate is four times the recipe's for this batch.
COURSE = Training(epochs=5, batch=16, learning_rate=4 * rate_of_batch(16))
FLOAT, AFTERWARDS = "fp32", "post-training INT8"

Right = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Size:
    """How much is done; the defaults take some minutes.

    Args:
        per_class: pictures of each class to train on.
        scored: how many pictures are scored, at most.
        training: how.
        methods: rows of `exporters.TRAINED`.
        bits: of weights and activations.
    """

    per_class: int = 40
    scored: int = 224
    training: Training = COURSE
    methods: tuple[str, ...] = tuple(TRAINED)
    bits: tuple[int, ...] = BITS


def measure(folder: Path, size: Size | None = None) -> Figure:
    """Every method with each number of bits beside the float network and post-training INT8."""
    size = size or Size()
    recipe = replace(demo_recipe(), limit=size.scored)
    job = job_for_file(recipe, Console(quiet=True))
    artifacts = {FLOAT: job.artifact, AFTERWARDS: _afterwards(recipe, job, folder)}
    artifacts.update(_trained(job, folder, size))
    names = ("clean", *(f"{noise}:{SEVERITY}" for noise in ALEXNET_ERROR))
    found = conditions_from_recipe(names, recipe, job.pipeline)
    scored = samples_from_data(recipe.data, "", job.artifact, recipe.seed)
    samples = SampleSet(scored.source, scored.samples[: size.scored])
    right = _right(artifacts, samples, found.chosen, recipe.seed)
    rows = [_row(name, artifact, right) for name, artifact in artifacts.items()]
    how = size.training
    replaced = " ".join(f"{finding.message}." for finding in found.findings)
    return Figure(
        "Quantisation-aware training of the demo's network",
        rows,
        f"{_told(rows)} Trained for {how.epochs} epochs on {size.per_class * len(job.artifact.classes or ())} drawn "
        f"pictures in batches of {how.batch}, learning rate {how.highest_rate:g} ("
        f"{how.highest_rate / rate_of_batch(how.batch):g} times the recipe's for that batch), first and last layer "
        f"8 bits; fewer bits are levels on 8-bit kernels. Scored on {len(samples.samples)} embedded pictures, which "
        f"nothing was trained on. NR: mean accuracy over {len(found.chosen) - 1} corruptions at severity {SEVERITY}. "
        f"Intervals are of 95 %; changes are paired with fp32 on the same pictures. {replaced}".rstrip(),
    )


def _told(rows: list[dict[str, str | int | float]]) -> str:
    """The best method of each number of bits, by NR."""
    best: dict[str, dict[str, str | int | float]] = {}
    for row in rows:
        kind = str(row["bits"])
        if row["method"] in TRAINED and (kind not in best or float(row["NR %"]) > float(best[kind]["NR %"])):
            best[kind] = row
    told = [f"{kind} bits: {row['method']} with NR {row['NR %']} %" for kind, row in best.items()]
    return f"The best trained network of each number of bits by NR: {'; '.join(told)}."


def _afterwards(recipe: Recipe, job: CalibrationJob, folder: Path) -> Artifact:
    calibration = calibration_from_job(job, Progress())
    wish = quantisation_from_recipe(recipe, ENGINE)
    return qdq_writer()(job.artifact, calibration, wish, quantisation_target(ENGINE), folder / "afterwards.onnx")


def _trained(job: CalibrationJob, folder: Path, size: Size) -> Iterator[tuple[str, Artifact]]:
    """Name, the method and the bits, and the network."""
    drawn = folder / "drawn"
    write_pictures(drawn, per_class=size.per_class, seed=DRAWN_SEED, split=DRAWN_SPLIT)
    samples = samples_from_data(str(drawn), "", job.artifact, job.seed)
    for method in size.methods:
        for bits in size.bits:
            print(f"{method}, {bits} bits", flush=True)
            wish = Wish(method, Bits(bits, bits), size.training)
            made, _ = trained_from_job(job, samples, wish, folder / f"{method}.{bits}.onnx", Progress())
            yield f"{method} {bits}", made


def _right(
    artifacts: Mapping[str, Artifact], samples: SampleSet, conditions: tuple[Condition, ...], seed: int
) -> dict[str, Right]:
    """Network -> 1 or 0 [conditions, pictures]; a picture that fails is a wrong answer."""
    tree = compile_tree([condition.pipeline for condition in conditions])
    right = {name: np.zeros((len(conditions), len(samples.samples))) for name in artifacts}
    with ExitStack() as stack:
        engines = {
            name: stack.enter_context(closing(engine_opener(ENGINE)(artifact, EngineOptions(threads=2))))
            for name, artifact in artifacts.items()
        }
        waiting: dict[int, list[tuple[int, npt.NDArray[np.float32]]]] = {}
        for place, sample in enumerate(samples.samples):
            for prepared in tree.walk_sample(sample, seed):
                if prepared.tensor is not None:
                    waiting.setdefault(prepared.condition, []).append((place, prepared.tensor))
            if (place + 1) % AT_ONCE == 0 or place + 1 == len(samples.samples):
                for condition, inputs in waiting.items():
                    places = [each for each, _ in inputs]
                    labels = np.array([samples.samples[each].label for each in places])
                    batch = np.stack([tensor for _, tensor in inputs])
                    for name, engine in engines.items():
                        right[name][condition, places] = _classes(engine, batch) == labels
                waiting.clear()
    return right


def _classes(engine: Engine, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    outputs = call(engine, {engine.inputs[0].name: batch}).outputs[engine.outputs[0].name]
    return np.asarray(outputs.argmax(axis=1), np.int64)


def _row(name: str, artifact: Artifact, right: Mapping[str, Right]) -> dict[str, str | int | float]:
    """The first condition is the clean one; the mean over the others is NR, one number per picture."""
    clean, noisy = right[name][0], right[name][1:].mean(axis=0)
    change = paired_difference(right[FLOAT][1:].mean(axis=0), noisy)
    method, _, bits = name.rpartition(" ")
    trained = method in TRAINED
    inputs = {artifact.input.name: random_input(artifact, (1, 3, *artifact.size), 0)}
    certificate = engine_certifier(ENGINE)(artifact, EngineOptions(), inputs)
    return {
        "method": method if trained else name,
        "bits": bits if trained else ("32" if name == FLOAT else str(artifact.made_by["weight_bits"])),
        "n": len(clean),
        "clean %": round(100 * float(clean.mean()), 1),
        "[95 %]": _interval(proportion(clean)),
        "NR %": round(100 * float(noisy.mean()), 1),
        "[95 % of NR]": _interval(proportion(noisy)),
        "NR against fp32, points": "-" if name == FLOAT else _interval(change, signed=True),
        "integer share %": round(100 * (certificate.integer_fraction or 0.0), 1),
    }


def _interval(estimate: Estimate, *, signed: bool = False) -> str:
    assert estimate.low is not None
    assert estimate.high is not None
    form = "+.1f" if signed else ".1f"
    ends = f"{100 * estimate.low:{form}} to {100 * estimate.high:{form}}"
    return f"{100 * (estimate.value or 0.0):{form}} [{ends}]" if signed else ends
