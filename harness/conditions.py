"""Conditions: what happens to a picture before a model sees it. Names of a recipe become pipelines of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engines.artifact import Artifact
from engines.base import EngineUnavailable
from engines.onnx_file import InputCodes
from harness.errors import HarnessError, unknown
from harness.recipe import STORED, Recipe
from harness.registry import missing_data, noise_settings, spelt_out, step_function
from noise import NOISES
from noise.base import (
    DoesNotApply,
    MissingData,
    Pipeline,
    Setting,
    Step,
    Unavailable,
    differences,
    pipeline_from_json,
)
from noise.corruptions.overlays import use_folder
from noise.presets import pipeline_from_preset, preset_names

# The published ImageNet-C was stored so; ``optimize`` was on too, which changes no pixel.
STORAGE = Step("sensor", "jpeg_compression", {"quality": 85})


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
        content: a hash of what is in the folder, where it may be added to later.
    """

    noise: str
    setting: str
    pipeline: Pipeline
    folder: str = ""
    content: str = ""

    @property
    def name(self) -> str:
        """``NAME:SETTING``, or the bare name of a noise without settings."""
        return f"{self.noise}:{self.setting}" if self.setting else self.noise


@dataclass(frozen=True)
class NotRun:
    """A setting that was asked for along with all others of its noise, and cannot be had here.

    Args:
        noise, setting: as of a `Condition`.
        reason: what is missing, and how to get it.
    """

    noise: str
    setting: str
    reason: str

    @property
    def name(self) -> str:
        """``NAME:SETTING``."""
        return f"{self.noise}:{self.setting}"


@dataclass(frozen=True)
class Conditions:
    """What became of the names of a recipe.

    Args:
        chosen: what runs.
        not_run: what does not.
        findings: what a reader must know of either.
    """

    chosen: tuple[Condition, ...]
    not_run: tuple[NotRun, ...]
    findings: tuple[Finding, ...]


def pipeline_from_recipe(recipe: Recipe, artifact: Artifact) -> tuple[Pipeline, tuple[Finding, ...]]:
    """From an encoded picture to the model's input, without noise; and what had to be assumed.

    Raises:
        HarnessError: no such preset, or a declaration that lacks a step.
    """
    if recipe.preprocess:
        if recipe.preprocess not in preset_names():
            raise unknown("preset", recipe.preprocess, preset_names())
        return _preset(recipe.preprocess, artifact), ()
    if artifact.preprocessing is not None:
        pipeline = pipeline_from_json(artifact.preprocessing)
        needed = {"decode", "layout"} if artifact.input.dtype == "uint8" else {"decode", "normalise", "layout"}
        missing = needed - {step.stage for step in pipeline.steps}
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


def rounded_as(swapped: Pipeline, declared: Pipeline, own: InputCodes | None) -> Pipeline:
    """A swap to integers whose scale is left open takes the engine's own, where that has such codes."""
    if own is None:
        return swapped

    def settled(step: Step) -> Step:
        swaps = step.row == "normalise.quantised" and step not in declared.steps
        if not swaps or step.params["step"] or step.params["codes"] != own.codes:
            return step
        return replace(step, params={**step.params, "step": own.scale, "zero": own.zero})

    return Pipeline(tuple(settled(step) for step in swapped.steps))


def _preset(name: str, artifact: Artifact) -> Pipeline:
    return pipeline_from_preset(name, size=artifact.size[0], layout=artifact.layout)


def conditions_from_recipe(names: Sequence[str], recipe: Recipe, pipeline: Pipeline) -> Conditions:
    """The conditions that names stand for, what had to be replaced for want of data, and what cannot run.

    A setting that needs a package, a device or a step that is not here stops a run that names it. One that was only
    meant by the name of its noise is reported as not run.

    Args:
        names: ``NAME`` (all settings of a noise) or ``NAME:SETTING``.
        recipe: in which form corrupted pictures come, and where from.
        pipeline: without noise.

    Raises:
        HarnessError: a name or setting that does not exist, or nothing that could run.
        EngineUnavailable, NoiseError: a setting that was named cannot be had here.
    """
    if recipe.frost_overlays:
        use_folder(Path(recipe.frost_overlays))
    chosen: dict[str, Condition] = {}
    not_run: dict[str, NotRun] = {}
    findings: dict[str, Finding] = {}
    for name in names:
        noise, _, wanted = name.partition(":")
        settings = noise_settings(noise)
        if wanted and wanted not in settings:
            raise unknown(f"setting of {noise!r}", wanted, settings)
        missing = None if recipe.imagenet_c else missing_data(noise)
        if missing is not None:
            stand_in, findings[noise] = _stand_in(noise, missing)
            noise = stand_in
            settings = noise_settings(noise)
        for setting in [wanted] if wanted else settings:
            try:
                condition = _condition((noise, setting), settings[setting], pipeline, recipe)
                chosen.setdefault(condition.name, condition)
            except (EngineUnavailable, Unavailable, DoesNotApply) as error:
                if wanted:
                    raise
                missed = NotRun(noise, setting, str(error))
                not_run.setdefault(missed.name, missed)
    absent = tuple(not_run.values())
    if not chosen:
        raise HarnessError(f"nothing of {', '.join(names)} can run here: {absent[0].reason}")
    return Conditions(tuple(chosen.values()), absent, (*findings.values(), *_not_run_findings(absent)))


def _not_run_findings(not_run: Sequence[NotRun]) -> list[Finding]:
    """One warning for each noise and reason."""
    settings: dict[tuple[str, str], list[str]] = {}
    for each in not_run:
        settings.setdefault((each.noise, each.reason), []).append(each.setting)
    return [
        Finding(noise, "warning", f"asked for and not run: {', '.join(missed)} of {noise}. {reason}")
        for (noise, reason), missed in settings.items()
    ]


def _condition(name: tuple[str, str], what: Setting, pipeline: Pipeline, recipe: Recipe) -> Condition:
    noise, setting = name
    changed = pipeline
    for difference in differences(what):
        changed = changed.with_step(difference)
    if not isinstance(what, Step) or what.stage != "sensor":
        swapped = Pipeline(tuple(_as_declared(step, pipeline) for step in changed.steps))
        for step in swapped.steps:
            if step not in pipeline.steps:
                step_function(step)  # what it lacks is said now
        return Condition(noise, setting, swapped)
    if recipe.imagenet_c:
        folder = Path(recipe.imagenet_c, noise, setting)
        if not folder.is_dir():
            raise HarnessError(
                f"{recipe.imagenet_c} has no folder {noise}/{setting}; expected NAME/SEVERITY/CLASS/FILE for every "
                f"corruption that is asked for"
            )
        return Condition(noise, setting, without_second_resize(pipeline), str(folder))
    return Condition(noise, setting, changed.with_step(STORAGE) if recipe.corruption_form == STORED else changed)


def _as_declared(step: Step, pipeline: Pipeline) -> Step:
    """A step as the pipeline spells it where that has the very same; else a swap with all its parameters."""
    if step in pipeline.steps or step.stage == "sensor":
        return step
    whole = spelt_out(step)
    return next((each for each in pipeline.steps if each.row == step.row and spelt_out(each) == whole), whole)


def without_second_resize(pipeline: Pipeline) -> Pipeline:
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
