"""Pictures: a twin behind the channel order, normalisation and layout of its artifact, as attacks see it.

Attacks change pictures of the model's size, in [0, 1], behind decode, resize and crop. At whole grey levels the numbers
that reach the twin are those of `noise.normalise`, bit by bit; between them its formula goes on. What it rounds, to
half precision or to the codes of an integer input, is rounded here, and the gradient passes straight through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exporters.base import ExportError
from exporters.twin.network import Twin
from exporters.twin.straight_through import codes_through, rounded_through
from noise.base import Pipeline, Step
from noise.normalise import CODES, input_grid

LEVELS = 255.0
# What is over before an attack begins: it has no part in the gradient.
IN_FRONT = ("decode", "resize", "crop")
NORMALISATIONS = ("float32", "float16", "integer", "quantised")


class PictureModel(nn.Module):
    """Pictures, float32 [N, 3, H, W] in [0, 1] -> logits [N, classes], differentiable all the way.

    Of a network that ends in probabilities the logits are the logarithms of these; a probability that float32 cannot
    tell from zero counts as the smallest number that it has, and has no gradient.

    Args:
        twin: of the network.
        steps: behind the crop, in their order: swap of channels, normalise and layout, where there are any.
        probabilities: whether that is what the twin says.
    """

    def __init__(self, twin: Twin, steps: tuple[Step, ...], probabilities: bool) -> None:
        super().__init__()
        self.twin = twin
        self.stages = nn.Sequential(*(_stage(step) for step in steps))
        self.probabilities = probabilities

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits, or logarithms of probabilities, [N, classes]."""
        scores: Tensor = self.twin(self.stages(pictures * LEVELS))
        if not self.probabilities:
            return scores
        return torch.log(scores.clamp(min=torch.finfo(scores.dtype).tiny))


def picture_model(twin: Twin, pipeline: Pipeline, output_kind: str = "logits") -> PictureModel:
    """What an attack by gradients is given.

    Args:
        twin: of the artifact.
        pipeline: from encoded bytes to the artifact's input, or its end behind the crop. Every step that is not decode,
            resize or crop is computed here; a swap of red and blue may stand in front of these, it is the same.
        output_kind: of the artifact, "logits" or "probabilities".

    Raises:
        ExportError: the pipeline has noise between the picture and the model, or steps that have no gradient.
    """
    noise = [step.row for step in pipeline.steps if step.stage == "sensor"]
    if noise:
        raise ExportError(f"an attack changes the picture that the model sees, but {', '.join(noise)} comes behind it")
    tail = tuple(step for step in pipeline.steps if step.stage not in IN_FRONT)
    return PictureModel(twin, tail, output_kind == "probabilities")


def _stage(step: Step) -> nn.Module:
    if step.stage == "layout" and step.name in ("nchw", "nhwc"):
        return _Layout(step.name, bool(step.params.get("misread", False)))
    if step.stage == "normalise" and step.name in NORMALISATIONS:
        return _Normalise(step.name, step.params)
    if step.row == "colour.bgr":
        return _Swap()
    raise ExportError(
        f"the step {step.row} has no differentiable form; the twin has colour.bgr, "
        f"{', '.join(f'normalise.{each}' for each in NORMALISATIONS)}, layout.nchw and layout.nhwc"
    )


class _Swap(nn.Module):
    """Red and blue of planes [N, 3, H, W] change places, as in `noise.colour.bgr`."""

    def forward(self, planes: Tensor) -> Tensor:
        return planes.flip(1)


class _Layout(nn.Module):
    """Planes [N, 3, H, W] in the order of `noise.layout`."""

    def __init__(self, name: str, misread: bool) -> None:
        super().__init__()
        self.name, self.misread = name, misread

    def forward(self, planes: Tensor) -> Tensor:
        interleaved = planes.permute(0, 2, 3, 1)
        if self.name == "nchw":
            return interleaved.reshape(planes.shape) if self.misread else planes
        return planes.reshape(interleaved.shape) if self.misread else interleaved


class _Normalise(nn.Module):
    """Levels 0 to 255, [N, 3, H, W], by a formula of `noise.normalise`."""

    scale: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, name: str, params: Mapping[str, Any]) -> None:
        super().__init__()
        self.name = name
        scale = float(params["scale"])
        mean, std = (np.array(params[key], np.float64) for key in ("mean", "std"))
        if name == "integer":
            scale, mean, std = 1.0, np.rint(scale * mean), (1 / (scale * std)).astype(np.float16)
        for key, values in (("scale", np.array(scale)), ("mean", mean), ("std", std)):
            self.register_buffer(key, torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1))
        if name == "quantised":
            self.grid = input_grid(**params)
            self.least, self.greatest, _ = CODES[params["codes"]]

    def forward(self, levels: Tensor) -> Tensor:
        if self.name == "integer":
            return (levels - self.mean) * self.std
        if self.name == "float16":
            return self._in_half(levels)
        values = (levels / self.scale - self.mean) / self.std
        if self.name == "float32":
            return values
        step, zero = (torch.tensor(each, dtype=values.dtype, device=values.device) for each in self.grid)
        return (codes_through(values, step, zero, self.least, self.greatest) - zero) * step

    def _in_half(self, levels: Tensor) -> Tensor:
        scale, mean, std = (_half(each) for each in (self.scale, self.mean, self.std))
        return _half(_half(_half(levels / scale) - mean) / std)


def _half(values: Tensor) -> Tensor:
    return rounded_through(values, values.detach().half().to(values.dtype))
