"""What the commands that make files from a model and pictures have in common."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from engines.artifact import Artifact, sidecar_path
from engines.onnx_file import artifact_from_onnx, external_files, model_from_onnx
from harness.calibrate import CalibrationJob, job_from_recipe, leaks
from harness.conditions import pipeline_from_recipe
from harness.errors import HarnessError
from harness.recipe import Recipe
from harness.samples import UNREADABLE, SampleSet, samples_from_data, unlabelled_from_data


def job_for_file(recipe: Recipe, console: Console) -> CalibrationJob:
    """The calibration of a command that makes a file and scores nothing; says what had to be assumed.

    Raises:
        HarnessError: neither pictures nor ranges were given.
    """
    artifact = artifact_from_onnx(Path(recipe.model))
    if not recipe.calibrate and not recipe.calibration:
        raise HarnessError("quantising needs ranges: give pictures with --calibrate DATA, or --calibration FILE")
    samples = SampleSet("", ())
    if recipe.calibrate:
        everything = unlabelled_from_data(recipe.calibrate, recipe.seed)
        samples = SampleSet(everything.source, everything.samples[: recipe.calibration_pictures])
    pipeline, assumed = pipeline_from_recipe(recipe, artifact)
    artifact = with_chosen_preprocessing(artifact, recipe)
    job, replaced = job_from_recipe(recipe, artifact, pipeline, samples)
    for finding in (*assumed, *replaced):
        console.print(f"{finding.severity}: {finding.message}", style="yellow", markup=False)
    return job


def with_chosen_preprocessing(artifact: Artifact, recipe: Recipe) -> Artifact:
    """The model with the preprocessing that the user named, which what is made of it inherits."""
    if not recipe.preprocess:
        return artifact
    return replace(artifact, preprocessing=tuple(pipeline_from_recipe(recipe, artifact)[0].describe()))


def scored_samples(recipe: Recipe, job: CalibrationJob) -> SampleSet:
    """The pictures to score: at most ``recipe.limit`` of ``recipe.data``, none of which is calibrated on.

    Raises:
        HarnessError: a picture would be calibrated on and scored.
    """
    everything = samples_from_data(recipe.data, recipe.labels, job.artifact, recipe.seed)
    samples = SampleSet(everything.source, everything.samples[: recipe.limit or None])
    copies = leaks(job.source(), samples.contents(), UNREADABLE)
    if copies:
        raise HarnessError(
            f"{len(copies)} calibration pictures would also be scored, the first is {copies[0][0]}; give others"
        )
    return samples


def check_output(output: str, recipe: Recipe) -> None:
    """Refuse to write over what a command reads, or over the sidecar of a model.

    Raises:
        HarnessError: ``output`` is the model, its sidecar, its weights, the calibration, or some model's sidecar.
    """
    path, model = Path(output).resolve(), Path(recipe.model).resolve()
    reads = {"the model": model, "the model's sidecar": sidecar_path(model)}
    weights = external_files(model, model_from_onnx(model)) if model.is_file() else []
    if recipe.calibration:
        reads["the calibration"] = Path(recipe.calibration).resolve()
    for what, file in (*reads.items(), *(("the model's weights", file) for file in weights)):
        if path == file.resolve():
            raise HarnessError(f"{output} is {what} itself; choose another name with -o")
    if path.suffix == ".json" and path.with_suffix("").suffix == ".onnx":
        raise HarnessError(f"{output} is the name of a model's sidecar; choose another name with -o")
