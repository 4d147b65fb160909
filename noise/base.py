"""Steps and pipelines: what happens to a picture between the file and the engine, as plain data.

A `Step` is a description, not a function. ``(stage, name, params)`` determines its function entirely, because
functions are made only by the factories in `noise.STEPS`; so equal descriptions mean equal pixels, and a
pipeline can be compared, hashed, stored in a run and repeated from there. Nothing here runs a step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

STAGES = ("decode", "colour", "resize", "crop", "sensor", "normalise", "layout")

# Steps of these stages are added to those that a pipeline has; a step of any other stage takes the place of one.
ADDED = ("colour", "sensor")

# What a step takes over from one of another name: sizes and levels that the artifact declares, not how they are made.
SHARED = {"resize": ("geometry", "size", "ready_size"), "crop": ("size",), "normalise": ("scale", "mean", "std")}

SMALLEST = 32  # the height and width below which corruptions are not defined

# The values that travel are bytes (before decode), uint8 HWC, RGB as a rule (until normalise), then float32.
StepFunction = Callable[[Any, np.random.Generator], Any]


class NoiseError(ValueError):
    """Something about a noise or a pipeline that the user can mend; the message says how."""


class MissingData(NoiseError):
    """A noise needs files that qharness may not bring along; the message says where to get them."""


class Unavailable(NoiseError):
    """A step needs hardware or a form of a library that this machine lacks; the message says which."""


class DoesNotApply(NoiseError):
    """A pipeline lacks the step that a noise would change."""


@dataclass(frozen=True)
class Step:
    """One operation on a picture.

    Args:
        stage: one of `STAGES`.
        name: the row of `noise.STEPS` under that stage.
        params: keyword arguments of the factory; JSON values only, so that a step survives being stored.
    """

    stage: str
    name: str
    params: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise NoiseError(f"a step's stage must be one of {', '.join(STAGES)}; got {self.stage!r}")

    @property
    def row(self) -> str:
        """The key of this step's factory in `noise.STEPS`."""
        return f"{self.stage}.{self.name}"

    @property
    def key(self) -> str:
        """Canonical JSON: equal steps do the same thing. A default that is spelt out makes another key."""
        return json.dumps(self.describe(), sort_keys=True, separators=(",", ":"))

    def describe(self) -> dict[str, Any]:
        """The step as JSON; `step_from_json` reads it back."""
        return {"stage": self.stage, "name": self.name, "params": dict(self.params)}


@dataclass(frozen=True)
class Pipeline:
    """Steps in the order of `STAGES`, from encoded bytes to the array that an engine is fed."""

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        order = [STAGES.index(step.stage) for step in self.steps]
        if order != sorted(order):
            raise NoiseError(
                f"the steps of a pipeline must follow the stages {' -> '.join(STAGES)}; "
                f"got {' -> '.join(step.row for step in self.steps)}"
            )

    @property
    def key(self) -> str:
        """16 hexadecimal digits that name what this pipeline does."""
        text = json.dumps([step.key for step in self.steps])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def describe(self) -> list[dict[str, Any]]:
        """The pipeline as JSON; `pipeline_from_json` reads it back."""
        return [step.describe() for step in self.steps]

    def with_step(self, difference: Step | Change) -> Pipeline:
        """This pipeline with one difference, which may be a change of a step that it has.

        A sensor step is *added* behind the crop: corruptions come on top of a picture. A colour step is added
        directly behind the decoder: a camera's format comes before what the artifact itself does to colours. A step
        of any other stage *replaces* the step of that stage. It inherits what it does not name: all parameters from a
        step of the same name, those of `SHARED` from another one; so "OpenCV's area filter" keeps the size that
        the artifact declares.

        Raises:
            DoesNotApply: the stage is to be swapped, and this pipeline has no step there.
        """
        step = difference.step(self) if isinstance(difference, Change) else difference
        if step.stage in ADDED:
            before = STAGES.index("decode" if step.stage == "colour" else "sensor")
            position = sum(STAGES.index(each.stage) <= before for each in self.steps)
            return Pipeline((*self.steps[:position], step, *self.steps[position:]))
        old = self.step_of(step.stage, f"{step.row} swaps")
        shared = old.params if old.name == step.name else SHARED.get(step.stage, ())
        kept = {name: value for name, value in old.params.items() if name in shared}
        new = replace(step, params={**kept, **step.params})
        return Pipeline(tuple(new if each is old else each for each in self.steps))

    def step_of(self, stage: str, wanted_by: str) -> Step:
        """The step of a stage.

        Raises:
            DoesNotApply: there is none; the message begins with ``wanted_by``.
        """
        for step in self.steps:
            if step.stage == stage:
                return step
        raise DoesNotApply(
            f"{wanted_by} the {stage} step, but this pipeline has none "
            f"({' -> '.join(step.row for step in self.steps)}); leave that noise out for this artifact"
        )


@dataclass(frozen=True)
class Ratio:
    """A parameter that depends on another step of the pipeline: a number of pixels, rounded to whole ones.

    Args:
        stage, param: which parameter of which step.
        factor: what it is multiplied by.
    """

    stage: str
    param: str
    factor: float = 1.0


@dataclass(frozen=True)
class Unchanged:
    """A parameter that the new step has as the old one did, though it is another library's.

    Args:
        unnamed: name of the old step -> what it does where it does not name the parameter.
        otherwise: what steps of all other names do, which do not have it.
    """

    unnamed: Mapping[str, Any]
    otherwise: Any


@dataclass(frozen=True)
class Change:
    """A difference that is complete only in sight of a pipeline; `step` completes it.

    Args:
        stage: of the step that is changed.
        params: as for `Step`; a `Ratio` stands for a number of pixels, `Unchanged` for what the old step does.
        name: of the new step; "" for the step that is there, whatever its name, with other parameters.
        needs: a stage that the pipeline must have too, for else the model's input would get another shape.
    """

    stage: str
    params: Mapping[str, Any]
    name: str = ""
    needs: str = ""

    def step(self, pipeline: Pipeline) -> Step:
        """The step that `Pipeline.with_step` takes.

        Raises:
            DoesNotApply: the pipeline lacks a step or a parameter that this depends on.
        """
        if self.needs:
            pipeline.step_of(self.needs, "the noise depends on")
        name = self.name or pipeline.step_of(self.stage, "the noise changes").name
        return Step(self.stage, name, {key: self._resolved(key, pipeline) for key in self.params})

    def _resolved(self, key: str, pipeline: Pipeline) -> Any:
        value = self.params[key]
        if isinstance(value, Unchanged):
            old = pipeline.step_of(self.stage, f"{self.stage}.{self.name} swaps")
            return old.params.get(key, value.unnamed.get(old.name, value.otherwise))
        return _pixels(value, pipeline) if isinstance(value, Ratio) else value


def _pixels(value: Ratio, pipeline: Pipeline) -> int:
    step = pipeline.step_of(value.stage, "the noise depends on")
    if value.param not in step.params:
        raise DoesNotApply(
            f"the noise depends on {value.param!r}, which {step.row} does not name; leave that noise out for this model"
        )
    pixels: float = step.params[value.param]
    return round(pixels * value.factor)


# What a setting of a noise is: one difference, several at once, or none.
Setting: TypeAlias = "Step | Change | tuple[Step | Change, ...] | None"


def differences(setting: Setting) -> tuple[Step | Change, ...]:
    """The differences that a setting makes, in order."""
    if setting is None:
        return ()
    return setting if isinstance(setting, tuple) else (setting,)


def step_from_json(description: Mapping[str, Any]) -> Step:
    """The step that `Step.describe` wrote."""
    try:
        stage, name, params = description["stage"], description["name"], dict(description["params"])
        if len(description) != 3:
            raise KeyError(sorted(description))
    except (KeyError, TypeError, ValueError) as error:
        raise NoiseError(
            f"a step must be an object with stage, name and params; got {json.dumps(description)}"
        ) from error
    return Step(str(stage), str(name), params)


def pipeline_from_json(descriptions: Sequence[Mapping[str, Any]]) -> Pipeline:
    """The pipeline that `Pipeline.describe` wrote."""
    return Pipeline(tuple(step_from_json(description) for description in descriptions))


def check_size(what: str, size: object) -> None:
    """Refuse a size that is no positive whole number of pixels."""
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise NoiseError(f"the size of a {what} must be a positive whole number of pixels; got {size!r}")


def check_picture(picture: object) -> None:
    """Refuse what no corruption can work on: anything but uint8 [H, W, 3] of at least `SMALLEST` pixels a side."""
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8:
        got = picture.dtype if isinstance(picture, np.ndarray) else type(picture).__name__
        raise NoiseError(f"a corruption takes levels 0 to 255 as uint8; got {got}. Scale and convert the picture first")
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise NoiseError(
            f"a corruption takes three channels, [H, W, 3] RGB; got shape {list(picture.shape)}. Convert grey and "
            f"transparent pictures to RGB first"
        )
    if min(picture.shape[:2]) < SMALLEST:
        raise NoiseError(
            f"a corruption needs at least {SMALLEST} x {SMALLEST} pixels; got {picture.shape[0]} x {picture.shape[1]}"
        )


def severities(name: str, *params: Mapping[str, Any]) -> dict[str, Step]:
    """Settings "1", "2", ... of a corruption: one sensor step per severity, mildest first."""
    return {str(level): Step("sensor", name, each) for level, each in enumerate(params, start=1)}


# The noise that changes nothing: its one setting has no step.
CLEAN: dict[str, Step | None] = {"": None}
