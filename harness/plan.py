"""Plan: everything that can fail cheaply fails here, before the first picture.

A plan is a grid: conditions (what happens to a picture) by versions (which form of the model sees it), over a
list of samples. Making it reads the model's graph and the names of the pictures, resolves every name of the
recipe, and runs one synthetic picture through every pipeline.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engines.artifact import Artifact
from engines.onnx_file import artifact_from_onnx
from harness.errors import HarnessError, unknown
from harness.preprocess import Tree, compile_tree
from harness.recipe import STORED, Recipe
from harness.registry import ENGINE_TABLE, engine_opener, missing_data, noise_settings
from harness.samples import Sample, SampleSet, samples_from_folder
from noise import NOISES
from noise.base import MissingData, Pipeline, Step, pipeline_from_json
from noise.corruptions.overlays import use_folder
from noise.presets import pipeline_from_preset, preset_names

# The published ImageNet-C was stored so; ``optimize`` was on too, which changes no pixel.
STORAGE = Step("sensor", "jpeg_compression", {"quality": 85})

# The forms in which a model runs, in the order in which losses are attributed.
FP32, SIMULATED, INTEGER = "fp32", "simulated", "integer"
VERSIONS = {
    FP32: "the exported model, in floating point",
    SIMULATED: "the Q/DQ file with integer kernels switched off: quantisation alone",
    INTEGER: "the same Q/DQ file on integer kernels: what ships",
}


@dataclass(frozen=True)
class Finding:
    """Something that a reader of the report must know. ``severity`` is "note" or "warning"."""

    check: str
    severity: str
    message: str


@dataclass(frozen=True)
class Condition:
    """One setting of one noise, and the pipeline that it makes of the artifact's own.

    Args:
        noise: its row in the table of noises.
        setting: one of the noise's, or "".
        pipeline: from the encoded picture to the model's input.
        folder: pictures that are corrupted already are read from below this folder; "" takes the scored ones.
    """

    noise: str
    setting: str
    pipeline: Pipeline
    folder: str = ""

    @property
    def name(self) -> str:
        """``NAME:SETTING``, or the bare name of a noise without settings."""
        return f"{self.noise}:{self.setting}" if self.setting else self.noise


@dataclass(frozen=True)
class Plan:
    """The grid of one run.

    Args:
        recipe: what was asked for.
        artifact: the model.
        pipeline: its preprocessing without noise.
        conditions: in the order of the report.
        versions: pairs of engine and version, in the order of the report.
        scored: the samples that are measured, in the order in which they are taken.
        calibration: the samples that ranges are measured on; none of them is scored.
        findings: what had to be assumed.
    """

    recipe: Recipe
    artifact: Artifact
    pipeline: Pipeline
    conditions: tuple[Condition, ...]
    versions: tuple[tuple[str, str], ...]
    scored: SampleSet
    calibration: SampleSet
    findings: tuple[Finding, ...]

    @property
    def distinct(self) -> tuple[Condition, ...]:
        """The conditions that differ in what they do. A swap to the step that is already there is one of two
        names for the same thing, and is measured once.
        """
        kept = {(each.folder, each.pipeline.key): each for each in reversed(self.conditions)}
        return tuple(kept.values())[::-1]

    def trees(self) -> dict[str, Tree]:
        """The distinct conditions as prefix trees of steps, one for each folder of pictures: what conditions share
        is computed once.
        """
        members: dict[str, dict[int, Pipeline]] = {}
        for index, condition in enumerate(self.distinct):
            members.setdefault(condition.folder, {})[index] = condition.pipeline
        return {folder: compile_tree(list(each.values()), list(each)) for folder, each in members.items()}


def plan(recipe: Recipe) -> Plan:
    """Resolve a recipe.

    Raises:
        HarnessError, ArtifactError, EngineUnavailable: the message says what to change.
    """
    artifact = artifact_from_onnx(Path(recipe.model))
    pipeline, findings = _pipeline(recipe, artifact)
    conditions, stand_ins = _conditions(recipe, pipeline)
    versions = tuple(_versions(recipe.engines, artifact))
    scored, calibration = _samples(recipe, artifact, needs_calibration=_needs_calibration(versions, artifact))
    made = Plan(recipe, artifact, pipeline, conditions, versions, scored, calibration, (*findings, *stand_ins))
    _try_pipelines(made)
    return made


def _pipeline(recipe: Recipe, artifact: Artifact) -> tuple[Pipeline, tuple[Finding, ...]]:
    if recipe.preprocess:
        if recipe.preprocess not in preset_names():
            raise unknown("preset", recipe.preprocess, preset_names())
        return _preset(recipe.preprocess, artifact), ()
    if artifact.preprocessing is not None:
        pipeline = pipeline_from_json(artifact.preprocessing)
        missing = {"decode", "normalise", "layout"} - {step.stage for step in pipeline.steps}
        if missing:
            raise HarnessError(
                f"the preprocessing that {artifact.path.name}.json declares has no {sorted(missing)[0]} step"
            )
        return pipeline, ()
    assumed = Finding(
        "preprocessing",
        "warning",
        f"{artifact.path.name} declares no preprocessing; the preset 'imagenet' was assumed. Name the right one "
        f"with --preprocess, or write it into {artifact.path.name}.json",
    )
    return _preset("imagenet", artifact), (assumed,)


def _preset(name: str, artifact: Artifact) -> Pipeline:
    return pipeline_from_preset(name, size=artifact.size[0], layout=artifact.layout)


def _conditions(recipe: Recipe, pipeline: Pipeline) -> tuple[tuple[Condition, ...], list[Finding]]:
    """The conditions, and what had to be replaced for want of data."""
    if recipe.frost_overlays:
        use_folder(Path(recipe.frost_overlays))
    chosen: dict[str, Condition] = {}
    findings: dict[str, Finding] = {}
    for name in recipe.noise:
        noise, _, wanted = name.partition(":")
        settings = noise_settings(noise)
        if wanted and wanted not in settings:
            raise unknown(f"setting of {noise!r}", wanted, settings)
        missing = None if recipe.imagenet_c else missing_data(noise)
        if missing is not None:
            stand_in, findings[noise] = _stand_in(noise, missing)
            noise = stand_in
            settings = noise_settings(noise)
        for setting, step in settings.items():
            if not wanted or setting == wanted:
                condition = _condition(noise, setting, step, pipeline, recipe)
                chosen.setdefault(condition.name, condition)
    return tuple(chosen.values()), list(findings.values())


def _condition(noise: str, setting: str, step: Step | None, pipeline: Pipeline, recipe: Recipe) -> Condition:
    if step is None:
        return Condition(noise, setting, pipeline)
    if step.stage != "sensor":
        return Condition(noise, setting, pipeline.with_step(step))
    if recipe.imagenet_c:
        folder = Path(recipe.imagenet_c, noise, setting)
        if not folder.is_dir():
            raise HarnessError(
                f"{recipe.imagenet_c} has no folder {noise}/{setting}; expected NAME/SEVERITY/CLASS/FILE for every "
                f"corruption that is asked for"
            )
        return Condition(noise, setting, _without_second_resize(pipeline), str(folder))
    changed = pipeline.with_step(step)
    return Condition(noise, setting, changed.with_step(STORAGE) if recipe.corruption_form == STORED else changed)


def _without_second_resize(pipeline: Pipeline) -> Pipeline:
    """A picture that has the size of the crop already is only cropped."""
    resize = next((step for step in pipeline.steps if step.stage == "resize"), None)
    crop = next((step for step in pipeline.steps if step.stage == "crop"), None)
    if resize is None or crop is None:
        return pipeline
    return pipeline.with_step(Step("resize", resize.name, {"ready_size": crop.params["size"]}))


def _stand_in(noise: str, missing: MissingData) -> tuple[str, Finding]:
    """The noise that takes the place of one whose files are missing, and the warning."""
    stand_in = NOISES[noise].stand_in if noise in NOISES else None
    if stand_in is None:
        raise missing
    message = f"{stand_in} stands in for {noise} and is not to be compared with it. {missing}"
    return stand_in, Finding(noise, "warning", message)


def _versions(names: Sequence[str], artifact: Artifact) -> Iterable[tuple[str, str]]:
    possible = [version for version in VERSIONS if version != FP32 or not artifact.quantised]
    chosen: dict[tuple[str, str], None] = {}
    for name in names:
        engine, _, version = name.partition(":")
        if engine in VERSIONS and not version:
            raise HarnessError(f"{engine!r} is a version, not an engine; write ENGINE:{engine}")
        if engine not in ENGINE_TABLE.names():
            raise unknown("engine", engine, ENGINE_TABLE.names())
        engine_opener(engine)  # a missing package is said now, not behind the calibration
        if version and version not in VERSIONS:
            raise unknown("version", version, VERSIONS)
        if version and version not in possible:
            raise HarnessError(
                f"{artifact.path.name} is already quantised, so there is no {version} version of it; "
                f"choose from {', '.join(possible)}"
            )
        chosen.update({(engine, each): None for each in possible if version in ("", each)})
    return chosen


def _needs_calibration(versions: Sequence[tuple[str, str]], artifact: Artifact) -> bool:
    return not artifact.quantised and any(version != FP32 for _, version in versions)


def _samples(recipe: Recipe, artifact: Artifact, *, needs_calibration: bool) -> tuple[SampleSet, SampleSet]:
    """The scored samples and the calibration samples; the two never overlap."""
    everything = samples_from_folder(Path(recipe.data), artifact, recipe.seed)
    if not needs_calibration:
        scored, calibration = everything.samples, SampleSet(everything.folder, ())
    elif recipe.calibrate:
        other = samples_from_folder(Path(recipe.calibrate), artifact, recipe.seed)
        scored = everything.samples
        calibration = SampleSet(other.folder, other.samples[: recipe.calibration_pictures])
        _check_disjoint(scored, calibration)
    else:
        count = min(recipe.calibration_pictures, len(everything.samples) // 5)
        if count == 0:
            raise HarnessError(
                f"{everything.folder} has {len(everything.samples)} pictures: too few to set some aside for "
                f"calibration; give others with --calibrate DIR"
            )
        calibration = SampleSet(everything.folder, everything.samples[:count])
        scored = everything.samples[count:]
    return SampleSet(everything.folder, scored[: recipe.limit or None]), calibration


def _check_disjoint(scored: Sequence[Sample], calibration: SampleSet) -> None:
    paths = {sample.path.resolve() for sample in scored}
    both = [sample for sample in calibration.samples if sample.path.resolve() in paths]
    if both:
        raise HarnessError(
            f"{len(both)} calibration pictures would also be scored, the first is {both[0].id}; "
            f"give another folder with --calibrate, or none to have pictures set aside"
        )


def _try_pipelines(made: Plan) -> None:
    """Run one synthetic picture through every pipeline, and see that the result fits the model's input."""
    stored = io.BytesIO()
    Image.fromarray(np.full((375, 500, 3), 128, np.uint8)).save(stored, format="PNG")
    trees = made.trees().values()
    walks = (tree.walk(stored.getvalue(), "synthetic", made.recipe.seed) for tree in trees)
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
