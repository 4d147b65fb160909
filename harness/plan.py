"""Plan: everything that can fail cheaply fails here, before the first picture.

A plan is a grid: conditions (what happens to a picture) by versions (which form of the model sees it), over a
list of samples. Making it reads the model's graph and the names of the pictures, resolves every name of the
recipe, and runs one synthetic picture through every pipeline.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from engines import ENGINES
from engines.artifact import Artifact
from engines.onnx_file import input_codes
from harness.adversarial.sets import conditions_from_sets
from harness.batches import Preparation
from harness.calibrate import CalibrationJob, job_from_recipe
from harness.conditions import Condition, Finding, NotRun, conditions_from_recipe, pipeline_from_recipe, rounded_as
from harness.errors import HarnessError, unknown
from harness.recipe import Recipe
from harness.registry import artifact_from_model, check_engine, engine_opener
from harness.samples import SYNTHETIC, Sample, SampleSet, samples_from_data, unlabelled_from_data
from noise.base import Pipeline

# The forms in which a model runs, in the order in which losses are attributed.
FP32, SIMULATED, INTEGER = "fp32", "simulated", "integer"
VERSIONS = {
    FP32: "the exported model, in floating point",
    SIMULATED: "the Q/DQ file with integer kernels switched off: quantisation alone",
    INTEGER: "the same Q/DQ file on integer kernels: what ships",
}


@dataclass(frozen=True)
class Plan:
    """The grid of one run.

    Args:
        recipe: what was asked for.
        artifact: the model.
        pipeline: its preprocessing without noise.
        conditions: in the order of the report.
        not_run: what was asked for and cannot run here.
        versions: pairs of engine and version, in the order of the report.
        scored: the samples that are measured, in the order in which they are taken.
        calibration: how ranges are measured, on samples none of which is scored unless the recipe allows it.
        findings: what had to be assumed.
        row_shape: of one input of the model, without the batch axis.
    """

    recipe: Recipe
    artifact: Artifact
    pipeline: Pipeline
    conditions: tuple[Condition, ...]
    not_run: tuple[NotRun, ...]
    versions: tuple[tuple[str, str], ...]
    scored: SampleSet
    calibration: CalibrationJob
    findings: tuple[Finding, ...]
    row_shape: tuple[int, ...] = ()

    @property
    def distinct(self) -> tuple[Condition, ...]:
        """The conditions that differ in what they do. A swap to the step that is already there is one of two
        names for the same thing, and is measured once.
        """
        kept = {(each.folder, each.pipeline.key): each for each in reversed(self.conditions)}
        return tuple(kept.values())[::-1]

    def pipelines(self) -> dict[str, dict[int, Pipeline]]:
        """Folder of pictures -> index of a distinct condition -> its pipeline."""
        members: dict[str, dict[int, Pipeline]] = {}
        for index, condition in enumerate(self.distinct):
            members.setdefault(condition.folder, {})[index] = condition.pipeline
        return members

    def preparation(self, batch: int) -> Preparation:
        """What turns pictures into batches.

        Args:
            batch: rows in one batch, where the model leaves it free.
        """
        rows = self.artifact.fixed_batch or batch
        return Preparation(
            self.pipelines(),
            self.recipe.seed,
            rows,
            self.row_shape,
            self.artifact.input.dtype,
            self.recipe.frost_overlays,
        )


def plan(recipe: Recipe) -> Plan:
    """Resolve a recipe.

    Raises:
        HarnessError, ArtifactError, EngineUnavailable: the message says what to change.
    """
    artifact = artifact_from_model(Path(recipe.model))
    pipeline, findings = pipeline_from_recipe(recipe, artifact)
    conditions = conditions_from_recipe(recipe.noise, recipe, pipeline)
    versions = tuple(_versions(recipe.engines, artifact))
    scored, calibration = _samples(
        recipe, artifact, needs_calibration=not recipe.calibration and _needs_calibration(versions, artifact)
    )
    job, replaced = job_from_recipe(recipe, artifact, pipeline, calibration)
    own = input_codes(artifact)
    made = Plan(
        recipe,
        artifact,
        pipeline,
        (
            *(replace(each, pipeline=rounded_as(each.pipeline, pipeline, own)) for each in conditions.chosen),
            *conditions_from_sets(recipe.adversarial, artifact, pipeline, scored.samples),
        ),
        conditions.not_run,
        versions,
        scored,
        job,
        (*findings, *dict.fromkeys((*conditions.findings, *replaced))),
    )
    return replace(made, row_shape=_row_shape(made))


def versions_of(artifact: Artifact) -> tuple[str, ...]:
    """The forms in which a model can run: a quantised file no longer has the exported one."""
    if artifact.as_it_is:
        return (INTEGER if artifact.quantised else FP32,)
    return tuple(version for version in VERSIONS if version != FP32 or not artifact.quantised)


def _versions(names: Sequence[str], artifact: Artifact) -> Iterable[tuple[str, str]]:
    possible = versions_of(artifact)
    chosen: dict[tuple[str, str], None] = {}
    for name in names:
        engine, _, version = name.partition(":")
        if engine in VERSIONS and not version:
            raise HarnessError(f"{engine!r} is a version, not an engine; write ENGINE:{engine}")
        check_engine(engine, artifact.format, artifact.path.name)
        engine_opener(engine)  # a missing package is said now, not behind the calibration
        if version and version not in VERSIONS:
            raise unknown("version", version, VERSIONS)
        if version and version not in possible:
            what = "already quantised" if artifact.quantised else "not quantised, and runs as it is"
            raise HarnessError(
                f"{artifact.path.name} is {what}, so there is no {version} version of it; "
                f"choose from {', '.join(possible)}"
            )
        simulates = engine not in ENGINES or ENGINES[engine].simulates
        if version == SIMULATED and not simulates:
            raise HarnessError(
                f"{engine} cannot switch its integer kernels off, so there is no simulated version on it; compare with "
                f"that of ort-cuda or ort-cpu"
            )
        here = [each for each in possible if simulates or each != SIMULATED]
        chosen.update({(engine, each): None for each in here if version in ("", each)})
    return chosen


def _needs_calibration(versions: Sequence[tuple[str, str]], artifact: Artifact) -> bool:
    return not artifact.quantised and any(version != FP32 for _, version in versions)


def _samples(recipe: Recipe, artifact: Artifact, *, needs_calibration: bool) -> tuple[SampleSet, SampleSet]:
    """The scored samples and the calibration samples; the two never overlap."""
    everything = samples_from_data(recipe.data, recipe.labels, artifact, recipe.seed)
    if not needs_calibration:
        scored, calibration = everything.samples, SampleSet(recipe.calibration or everything.source, ())
    elif recipe.calibrate:
        other = unlabelled_from_data(recipe.calibrate, recipe.seed)
        scored = everything.samples
        calibration = SampleSet(other.source, other.samples[: recipe.calibration_pictures])
        if not recipe.calibration_overlap:
            _check_disjoint(scored, calibration)
    else:
        count = min(recipe.calibration_pictures, len(everything.samples) // 5)
        if count == 0:
            raise HarnessError(
                f"{everything.source} has {len(everything.samples)} pictures: too few to set some aside for "
                f"calibration; give others with --calibrate DATA"
            )
        calibration = SampleSet(everything.source, everything.samples[:count])
        scored = everything.samples[count:]
    return SampleSet(everything.source, scored[: recipe.limit or None]), calibration


def _check_disjoint(scored: Sequence[Sample], calibration: SampleSet) -> None:
    places = {sample.locator for sample in scored}
    both = [sample for sample in calibration.samples if sample.locator in places]
    if both:
        raise HarnessError(
            f"{len(both)} calibration pictures would also be scored, the first is {both[0].id}; "
            f"give others with --calibrate, or none to have pictures set aside"
        )


def _row_shape(made: Plan) -> tuple[int, ...]:
    """Run one synthetic picture through every pipeline, and see that the results fit the model's input."""
    shapes: dict[tuple[int, ...], str] = {}
    trees = made.preparation(1).trees().values()
    walks = (tree.walk(SYNTHETIC.read(), SYNTHETIC.id, made.recipe.seed) for tree in trees)
    for prepared in chain.from_iterable(walks):
        name = made.distinct[prepared.condition].name
        if prepared.error is not None:
            raise HarnessError(f"the pipeline of {name} fails on any picture: {prepared.error}")
        got: Any = prepared.tensor
        spec = made.artifact.input
        if got.dtype.name != spec.dtype or not all(
            want in (None, have) for want, have in zip(spec.shape[1:], got.shape, strict=True)
        ):
            raise HarnessError(
                f"the pipeline of {name} makes {got.dtype} {list(got.shape)}, but {made.artifact.path.name} "
                f"expects {spec.dtype} {spec.shape_text}"
            )
        shapes.setdefault(got.shape, name)
    if len(shapes) > 1:
        sizes = ", ".join(f"{list(shape)} ({name})" for shape, name in shapes.items())
        raise HarnessError(f"all conditions of a run must feed the model one size; got {sizes}. Make one run per size")
    return next(iter(shapes))
