"""Sensitivity: what quantising one layer alone costs, layer by layer, clean and under noise."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from engines import ENGINES
from engines.artifact import Artifact
from engines.base import EngineOptions, EngineUnavailable, call
from exporters.base import Calibration, Quantisation
from harness.conditions import Condition
from harness.errors import HarnessError
from harness.estimate import Estimate, average, paired_difference, proportion
from harness.exporting import layer_groups, qdq_writer, quantisation_target
from harness.preprocess import compile_tree
from harness.progress import Progress
from harness.record import logit_distances
from harness.registry import engine_opener
from harness.samples import SampleSet

Array = npt.NDArray[np.float32]

_BATCH = 8


@dataclass(frozen=True)
class Cost:
    """What quantising one layer changed under one condition, on the same pictures as fp32.

    Args:
        difference: accuracy with the layer quantised minus accuracy in float.
        better: pictures that only the quantised layer's network got right.
        worse: pictures that only the float network got right.
        changed: share of pictures whose prediction changed.
        distance: mean `harness.record.logit_distances` from the float answers.
    """

    difference: Estimate
    better: int
    worse: int
    changed: Estimate
    distance: Estimate


@dataclass(frozen=True)
class LayerCost:
    """One layer, and its `Cost` under each condition."""

    layer: str
    costs: Mapping[str, Cost]

    @property
    def rank(self) -> tuple[float, float, float]:
        """Accuracy lost, predictions changed and distance, means over conditions: the largest costs most."""
        costs = self.costs.values()

        def mean(estimates: Sequence[Estimate]) -> float:
            return float(np.mean([estimate.value or 0.0 for estimate in estimates]))

        return (
            -mean([cost.difference for cost in costs]),
            mean([cost.changed for cost in costs]),
            mean([cost.distance for cost in costs]),
        )

    def describe(self) -> dict[str, Any]:
        """The layer as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Study:
    """What to quantise layer by layer, and what to measure it on.

    Args:
        artifact: the float model.
        calibration: its ranges.
        wish: how layers become integers; ``only`` is set for each in turn.
        samples: the pictures to score.
        conditions: each picture is scored under every one.
        seed: of the noise.
    """

    artifact: Artifact
    calibration: Calibration
    wish: Quantisation
    samples: SampleSet
    conditions: tuple[Condition, ...]
    seed: int


def sensitivity(study: Study, progress: Progress) -> list[LayerCost]:
    """Every layer's cost, the most costly first.

    Raises:
        HarnessError: no picture can be read.
        ExportError, EngineError: the model cannot be quantised, or not run.
    """
    engine, options = engine_for(study.wish.target)
    groups = layer_groups(study.artifact)
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        inputs, labels = _inputs(study, Path(folder), progress)
        exact = _answers(engine, study.artifact, options, inputs)
        for layer, nodes in progress.over("quantise layers one by one", list(groups.items())):
            wish = replace(study.wish, only=nodes)
            path = Path(folder) / "layer.onnx"
            made = qdq_writer()(study.artifact, study.calibration, wish, quantisation_target(wish.target), path)
            answers = _answers(engine, made, options, inputs)
            kind = study.artifact.output_kind
            each = {name: _cost(exact[name], answers[name], labels, kind) for name in inputs}
            costs.append(LayerCost(layer, each))
    return sorted(costs, key=lambda cost: cost.rank, reverse=True)


def engine_for(target: str) -> tuple[str, EngineOptions]:
    """The engine here that a target's files are made for; else the simulation on ONNX Runtime's CPU provider."""
    threads = os.cpu_count() or 1
    for name, row in ENGINES.items():
        if row.quantised_for == target:
            try:
                engine_opener(name)
            except EngineUnavailable:
                continue
            return name, EngineOptions(threads=threads)
    return "ort-cpu", EngineOptions(integer_kernels=False, threads=threads)


def _inputs(study: Study, folder: Path, progress: Progress) -> tuple[dict[str, Array], npt.NDArray[np.int64]]:
    """Condition -> inputs, float32 [n, ...] in a file each, so that memory does not grow; and the labels [n]."""
    tree = compile_tree([condition.pipeline for condition in study.conditions])
    names = [condition.name for condition in study.conditions]
    shape = (len(study.samples.samples), *[size or 1 for size in study.artifact.input.shape[1:]])
    files = [
        open_memmap(folder / f"{index}.npy", mode="w+", dtype=np.float32, shape=shape) for index in range(len(names))
    ]
    labels: list[int] = []
    for sample in progress.over("preprocess", study.samples.samples):
        prepared = list(tree.walk_sample(sample, study.seed))
        if any(each.tensor is None for each in prepared):
            continue
        for each in prepared:
            files[each.condition][len(labels)] = each.tensor
        labels.append(sample.label)
    if not labels:
        raise HarnessError(f"none of the {len(study.samples.samples)} pictures of {study.samples.source} can be read")
    return {name: file[: len(labels)] for name, file in zip(names, files, strict=True)}, np.array(labels)


def _answers(engine: str, artifact: Artifact, options: EngineOptions, inputs: Mapping[str, Array]) -> dict[str, Array]:
    with closing(engine_opener(engine)(artifact, options)) as opened:

        def outputs(values: Array) -> Iterator[Array]:
            size = artifact.fixed_batch or _BATCH
            for start in range(0, len(values), size):
                part = values[start : start + size]
                fed = np.resize(part, (size, *part.shape[1:])) if artifact.fixed_batch else np.ascontiguousarray(part)
                yield call(opened, {artifact.input.name: fed}).outputs[artifact.output.name][: len(part)]

        return {name: np.concatenate(list(outputs(values))) for name, values in inputs.items()}


def _cost(exact: Array, answers: Array, labels: npt.NDArray[np.int64], output_kind: str) -> Cost:
    before, after = exact.argmax(axis=1), answers.argmax(axis=1)
    old, new = (before == labels).astype(np.float64), (after == labels).astype(np.float64)
    moved = logit_distances(answers, exact, output_kind)
    known = np.array([each for each in moved if each is not None])
    return Cost(
        difference=paired_difference(old, new),
        better=int((new > old).sum()),
        worse=int((old > new).sum()),
        changed=proportion((before != after).astype(np.float64)),
        distance=average(known, len(moved) - len(known), "relative distance"),
    )
