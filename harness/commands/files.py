"""What the commands that make files from a model and pictures have in common."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from engines.onnx_file import artifact_from_onnx
from harness.calibrate import CalibrationJob, job_from_recipe, leaks
from harness.conditions import pipeline_from_recipe
from harness.errors import HarnessError
from harness.recipe import Recipe
from harness.samples import UNREADABLE, SampleSet, samples_from_folder


def job_for_file(recipe: Recipe, console: Console) -> CalibrationJob:
    """The calibration of a command that makes a file and scores nothing; says what had to be assumed.

    Raises:
        HarnessError: neither pictures nor ranges were given.
    """
    artifact = artifact_from_onnx(Path(recipe.model))
    if not recipe.calibrate and not recipe.calibration:
        raise HarnessError("quantising needs ranges: give pictures with --calibrate DIR, or --calibration FILE")
    samples = SampleSet(Path(recipe.calibrate), ())
    if recipe.calibrate:
        everything = samples_from_folder(Path(recipe.calibrate), artifact, recipe.seed)
        samples = SampleSet(everything.folder, everything.samples[: recipe.calibration_pictures])
    pipeline, assumed = pipeline_from_recipe(recipe, artifact)
    job, replaced = job_from_recipe(recipe, artifact, pipeline, samples)
    for finding in (*assumed, *replaced):
        console.print(f"{finding.severity}: {finding.message}", style="yellow", markup=False)
    return job


def scored_samples(recipe: Recipe, job: CalibrationJob) -> SampleSet:
    """The pictures to score: at most ``recipe.limit`` of ``recipe.data``, none of which is calibrated on.

    Raises:
        HarnessError: a picture would be calibrated on and scored.
    """
    everything = samples_from_folder(Path(recipe.data), job.artifact, recipe.seed)
    samples = SampleSet(everything.folder, everything.samples[: recipe.limit or None])
    copies = leaks(job.source(), samples.contents(), UNREADABLE)
    if copies:
        raise HarnessError(
            f"{len(copies)} calibration pictures would also be scored, the first is {copies[0][0]}; give others"
        )
    return samples
