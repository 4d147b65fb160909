"""What can be attacked: a picture's way in front of the attack and behind it, and an engine as a function of pictures.

An attack stands between crop and normalise. In front of it a picture is decoded, resized and cropped as the artifact
declares; behind it the artifact's own steps make the model's input. What is stored is given to engines as a file,
through the whole pipeline, which leaves a picture of the right size as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from engines.artifact import Artifact
from engines.base import call
from harness.errors import HarnessError
from harness.prepare import Contender
from harness.record import logits_from_outputs
from harness.registry import engine_opener, step_function
from noise.adversarial import DECISION
from noise.adversarial.base import Pictures
from noise.adversarial.ledger import Ledger
from noise.base import Pipeline, Step, StepFunction

Levels = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float64]

# What a source of adversarial pictures may be.
TWIN, ENGINE = "twin", "engine"

IN_FRONT = ("decode", "resize", "crop")
BEHIND = ("colour", "normalise", "layout")

# How far a float picture may be from whole levels to be taken for 8-bit: the rounding of x * 255 in float32.
WHOLE = 1e-3

# No step behind the crop draws; the generator is there because the contract of steps says so.
UNUSED = np.random.default_rng(0)


def steps_in_front(pipeline: Pipeline) -> Pipeline:
    """From an encoded picture to uint8 [H, W, 3] at the model's size: what is attacked.

    Raises:
        HarnessError: the pipeline has a step that cannot be put behind the attack.
    """
    _check(pipeline)
    return Pipeline(tuple(step for step in pipeline.steps if step.stage in IN_FRONT))


def steps_behind(pipeline: Pipeline) -> tuple[Step, ...]:
    """From there to the model's input.

    Raises:
        HarnessError: as `steps_in_front`.
    """
    _check(pipeline)
    return tuple(step for step in pipeline.steps if step.stage in BEHIND)


def _check(pipeline: Pipeline) -> None:
    for step in pipeline.steps:
        # Channels may change places before a resize or behind it, it is the same; a camera's format may not.
        if step.stage not in (*IN_FRONT, *BEHIND) or (step.stage == "colour" and step.name != "bgr"):
            raise HarnessError(
                f"an attack works between crop and normalise, and {step.row} of this pipeline cannot be moved behind "
                f"it; attack with a pipeline without that step (--preprocess)"
            )


class Model(Protocol):
    """A model as attacks and measurements see it.

    Attributes:
        name: ``ENGINE:VERSION``, or that of a twin.
        kind: `TWIN`, through which gradients can be followed, or `ENGINE`.
    """

    name: str
    kind: str

    def describe(self) -> Mapping[str, Any]:
        """What it is, as JSON; what an adversarial set says that it was made for."""

    def logits(self, pictures: Pictures) -> Logits:
        """float64 [n, classes], or log-probabilities, of pictures float32 [n, 3, H, W] in [0, 1]."""

    def gradients(self) -> Any:
        """What attacks by gradients are given, a function of torch.

        Raises:
            HarnessError: it has none.
        """

    def ledger(self, needs: str) -> Ledger:
        """What attacks by queries are given: a new ledger that gives `SCORES` or `DECISION`."""


class EngineModel:
    """A contender as a function of pictures. Whole levels take the very steps of a run; others are interpolated.

    Args:
        contender: what runs.
        pipeline: that the artifact declares.
        batch: pictures in one call.
    """

    def __init__(self, contender: Contender, pipeline: Pipeline, batch: int) -> None:
        self.name = contender.name
        self.kind = ENGINE
        self._contender = contender
        self.batch = contender.artifact.fixed_batch or batch
        self._steps = steps = steps_behind(pipeline)
        self._colour, self._normalise, self._layout = (
            [step_function(step) for step in steps if step.stage == stage] for stage in BEHIND
        )
        self._table = self._levels_table()
        self._engine = engine_opener(contender.engine)(contender.artifact, contender.options)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def describe(self) -> Mapping[str, Any]:
        artifact = self._contender.artifact
        return {
            "name": self.name,
            "kind": ENGINE,
            "sha256": artifact.sha256,
            "options": self._contender.options.describe(),
            "steps": [step.describe() for step in self._steps],
            "facts": {key: value for key, value in self._engine.facts().items() if isinstance(value, str | int | bool)},
        }

    def logits(self, pictures: Pictures) -> Logits:
        parts = [self._asked(pictures[at : at + self.batch]) for at in range(0, len(pictures), self.batch)]
        return np.concatenate(parts)

    def gradients(self) -> Any:
        raise HarnessError(f"{self.name} is an engine, and an engine has no gradients; attack its twin")

    def ledger(self, needs: str) -> Ledger:
        return ledger_of(self, self.batch, needs)

    def _asked(self, pictures: Pictures) -> Logits:
        artifact, count = self._contender.artifact, len(pictures)
        fed = self._inputs(pictures)
        if artifact.fixed_batch and count < artifact.fixed_batch:
            fed = np.concatenate([fed, np.repeat(fed[-1:], artifact.fixed_batch - count, axis=0)])
        timed = call(self._engine, {artifact.input.name: fed})
        return logits_from_outputs(timed.outputs[artifact.output.name][:count], artifact.output_kind)

    def _inputs(self, pictures: Pictures) -> npt.NDArray[Any]:
        """Pictures, float32 [n, 3, H, W] in [0, 1], as the model's input."""
        count, channels, height, width = pictures.shape
        # Colour and normalise look at one pixel at a time, so pictures one below the other go through them as one.
        tall = np.ascontiguousarray(pictures.transpose(0, 2, 3, 1)).reshape(count * height, width, channels)
        levels = _through(self._colour, tall * np.float32(255))
        nearest = np.rint(levels)
        values = _through(self._normalise, nearest.astype(np.uint8))
        stacked = values.reshape(count, height, width, channels)
        if self._table is not None:
            off = np.abs(levels - nearest).reshape(count, -1).max(axis=1) > WHOLE
            if off.any():
                stacked[off] = self._between(levels.reshape(stacked.shape)[off], self._table)
        return np.stack([_through(self._layout, picture) for picture in stacked])

    @staticmethod
    def _between(levels: npt.NDArray[np.float32], table: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """[..., 3]: what normalise would make of levels that are not whole, in proportion."""
        below = np.floor(levels)
        index, channels = below.astype(np.intp), np.arange(3)
        low, high = table[index, channels], table[np.minimum(index + 1, 255), channels]
        return np.asarray(low + (high - low) * (levels - below))

    def _levels_table(self) -> npt.NDArray[np.float32] | None:
        """[256, 3]: what normalise makes of every level; ``None`` where the model takes levels."""
        if not self._normalise:
            return None
        every = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
        return cast("npt.NDArray[np.float32]", _through(self._normalise, every)[:, 0])


def ledger_of(model: Model, batch: int, needs: str) -> Ledger:
    """A new ledger before a model.

    Args:
        batch: pictures in one call. Two batches of them are searched for at once: enough that a search that ends leaves
            no hole, and so few that a kill loses little.
        needs: `SCORES` or `DECISION`.
    """

    def top(pictures: Pictures) -> npt.NDArray[np.int64]:
        return np.asarray(model.logits(pictures).argmax(axis=1))

    return Ledger(top if needs == DECISION else model.logits, batch, needs, abreast=2 * batch)


def _through(functions: Sequence[StepFunction], picture: npt.NDArray[Any]) -> npt.NDArray[Any]:
    for function in functions:
        picture = function(picture, UNUSED)
    return picture


def check_source(source: Artifact, target: Artifact) -> None:
    """See that pictures that fool one model can be given to another.

    Raises:
        HarnessError: another size of input, or other classes.
    """
    if source.size != target.size or source.class_count != target.class_count:
        raise HarnessError(
            f"{source.path.name} takes {source.size[0]} x {source.size[1]} pixels and knows {source.class_count} "
            f"classes, {target.path.name} {target.size[0]} x {target.size[1]} and {target.class_count}: what fools one "
            f"cannot be given to the other"
        )
    if source.classes and target.classes and source.classes != target.classes:
        raise HarnessError(
            f"{source.path.name} and {target.path.name} list their classes in different orders; attack a model with "
            f"the same list"
        )
