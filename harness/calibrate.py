"""Calibrate: the pictures of a folder become the ranges of a model's activations, measured here or read from a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engines.artifact import Artifact
from exporters.base import Calibration, Observer, Picture, Source, check_model, read_calibration
from harness.conditions import Condition, Finding, conditions_from_recipe
from harness.errors import HarnessError
from harness.exporting import calibrator, improvements
from harness.preprocess import compile_tree
from harness.progress import Progress
from harness.recipe import Recipe
from harness.registry import METHOD_TABLE
from harness.samples import SampleSet
from noise.base import Pipeline

DEFAULT_METHOD = "minmax"
CLEAN = "clean"

# Fewer pictures than this are worth a warning: an extreme of a handful is an accident.
FEW = 8


@dataclass(frozen=True)
class CalibrationJob:
    """What to calibrate, and on what.

    Args:
        artifact: the float model.
        samples: the pictures to measure on; empty where nothing is to be calibrated, or all is known.
        pipeline: the model's preprocessing without noise.
        conditions: every picture is measured under each of them.
        method: row of `exporters.METHODS`, with its parameter.
        seed: of the noise.
        ready: ranges that were measured before.
    """

    artifact: Artifact
    samples: SampleSet
    pipeline: Pipeline
    conditions: tuple[Condition, ...]
    method: str
    seed: int
    ready: Calibration | None = None

    def source(self) -> Source:
        """What the ranges are measured on. Reads the pictures."""
        if self.ready is not None:
            return self.ready.source
        return Source(
            method=self.method,
            pictures=self.samples.contents(),
            preprocessing=self.pipeline.key,
            conditions={condition.name: condition.pipeline.key for condition in self.conditions},
            seed=self.seed,
        )

    def describe(self, source: Source) -> dict[str, Any]:
        """What a run's identity says of its calibration; ``source`` is what `source` returned."""
        return {
            "source": self.samples.source,
            "method": source.method,
            "pictures": len(source.pictures),
            "fingerprint": source.picture_list,
            "conditions": list(source.conditions),
        }


def job_from_recipe(
    recipe: Recipe, artifact: Artifact, pipeline: Pipeline, samples: SampleSet
) -> tuple[CalibrationJob, tuple[Finding, ...]]:
    """The calibration that a recipe asks for, and what had to be assumed.

    Raises:
        HarnessError, ExportError: no such method or noise, or a calibration file that belongs to something else.
    """
    ready = _ready(recipe, artifact, pipeline) if recipe.calibration and not artifact.quantised else None
    method = ready.source.method if ready else recipe.calibration_method or DEFAULT_METHOD
    observer_factory(method)  # a wrong name is said now
    improvements(recipe.improve)
    if recipe.improve and artifact.quantised:
        raise HarnessError(
            f"{artifact.path.name} is quantised already; improve the float model that it was made from, or leave "
            f"--improve out"
        )
    names = recipe.calibration_noise or (CLEAN,)
    conditions = conditions_from_recipe(names, replace(recipe, imagenet_c=""), pipeline)
    job = CalibrationJob(artifact, samples, pipeline, conditions.chosen, method, recipe.seed, ready)
    return job, conditions.findings


def calibration_from_job(job: CalibrationJob, progress: Progress) -> Calibration:
    """Measure, or take what was measured before.

    Raises:
        HarnessError: more than half of the pictures cannot be read.
        ExportError: no pictures, or a model that cannot be calibrated.
    """
    if job.ready is not None:
        return job.ready
    source = job.source()
    total = len(job.samples.samples) * len(job.conditions)
    with progress.task("calibrate", total=total) as advance:
        return calibrator()(job.artifact, advance.over(pictures_of(job)), source, observer_factory(job.method))


def observer_factory(method: str) -> Callable[[], Observer]:
    """What makes the observers of a method, "percentile:99.9": one for each tensor.

    Raises:
        HarnessError: no such method, or a parameter that is no number.
        ExportError: a number that the method refuses.
    """
    return METHOD_TABLE.maker(method)


def leaks(source: Source, scored: Mapping[str, str], unreadable: str) -> list[tuple[str, str]]:
    """Pairs of a calibration picture's id and a scored one's whose contents are equal."""
    names = {content: sample_id for sample_id, content in scored.items() if content != unreadable}
    return [(ours, names[content]) for ours, content in source.pictures.items() if content in names]


def calibration_findings(summary: Mapping[str, Any]) -> list[Finding]:
    """What a reader must know of a calibration's pictures: those that could not be used, or too few.

    Args:
        summary: `exporters.base.Calibration.summary`.
    """
    findings = []
    asked = summary["pictures"] * len(summary["conditions"])
    if summary["inputs"] < asked:
        text = f"{asked - summary['inputs']} of {asked} calibration inputs could not be decoded"
        findings.append(Finding("calibration", "warning", text))
    if summary["pictures"] < FEW:
        text = (
            f"calibrated on {summary['pictures']} pictures: ranges of so few are accidents; give at least {FEW}, "
            f"better 100"
        )
        findings.append(Finding("calibration", "warning", text))
    return findings


def _ready(recipe: Recipe, artifact: Artifact, pipeline: Pipeline) -> Calibration:
    path = Path(recipe.calibration)
    calibration = read_calibration(path)
    check_model(calibration, artifact.sha256, artifact.path)
    source = calibration.source
    if source.preprocessing != pipeline.key:
        raise HarnessError(
            f"{path} was measured behind another preprocessing (key {source.preprocessing}, here {pipeline.key}); "
            f"calibrate again with the same --preprocess"
        )
    if recipe.calibration_method not in ("", source.method):
        raise HarnessError(
            f"{path} was measured by the method {source.method}, not {recipe.calibration_method}; calibrate again, or "
            f"leave --method out"
        )
    return calibration


def pictures_of(job: CalibrationJob) -> Iterator[Picture]:
    """The pictures under every condition, preprocessed, one at a time; unreadable ones are left out and counted."""
    tree = compile_tree([condition.pipeline for condition in job.conditions])
    failures: dict[str, str] = {}
    for sample in job.samples.samples:
        for prepared in tree.walk_sample(sample, job.seed):
            if prepared.tensor is None:
                failures.setdefault(sample.id, str(prepared.error))
            else:
                yield np.repeat(prepared.tensor[None], job.artifact.fixed_batch or 1, axis=0)
    if len(failures) * 2 > len(job.samples.samples):
        first = next(iter(failures.items()))
        raise HarnessError(
            f"{len(failures)} of {len(job.samples.samples)} calibration pictures cannot be read, the first: "
            f"{first[0]}: {first[1]}"
        )
