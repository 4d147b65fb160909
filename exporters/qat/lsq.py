"""LSQ: the step is a weight like any other (Esser et al., Learned Step Size Quantization, ICLR 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from exporters.qat.base import Levels, Method, Quantiser, positive, rounded, scaled_gradient


class LearnedStep(Quantiser):
    """``s * round(clip(v / s, -Qn, Qp))``, equations 1 and 2.

    The gradient of the step is equation 3: ``round(v / s) - v / s`` where v is not clipped, ``-Qn`` or ``Qp`` where it
    is; times ``1 / sqrt(N Qp)``, section 2.2, where N counts the values that share a step (of one picture, for
    activations). The gradient of the values is 1 where they are not clipped and 0 elsewhere, equation 5.

    Args:
        levels: to which integers.
        start: float32, a scalar or [channels]: the steps to begin with.
        axis: of the channels that have a step each.
        batched: whether the first axis counts pictures, which share N.
    """

    def __init__(self, levels: Levels, start: Tensor, axis: int | None = None, *, batched: bool = False) -> None:
        super().__init__(levels, axis)
        self.step = nn.Parameter(start.detach().clone().float())
        self.batched = batched

    def forward(self, values: Tensor) -> Tensor:
        shared = values.numel() / (values.shape[0] if self.batched else self.step.numel())
        step = scaled_gradient(positive(self.step), 1 / math.sqrt(shared * max(self.levels.highest, 1)))
        step = self.spread(step, values)
        return step * rounded((values / step).clamp(self.levels.lowest, self.levels.highest))

    def codes(self, values: Tensor) -> Tensor:
        step = self.spread(self.scale(), values)
        return torch.round((values / step).clamp(self.levels.lowest, self.levels.highest)).int()

    def scale(self) -> Tensor:
        return positive(self.step.detach())


def weights(levels: Levels, initial: Tensor, axis: int | None) -> Quantiser:
    """Steps begin at ``2 <|v|> / sqrt(Qp)``, section 2.1."""
    mean = initial.abs().mean() if axis is None else initial.abs().movedim(axis, 0).flatten(1).mean(dim=1)
    start = 2 * mean / math.sqrt(max(levels.highest, 1))
    return LearnedStep(levels, torch.where(start > 0, start, torch.ones_like(start)), axis)


def activations(levels: Levels, reach: float) -> Quantiser:
    """Steps begin where calibration's reach is the last integer: the paper's formula needs a first batch instead."""
    return LearnedStep(levels, torch.tensor((reach or 1.0) / max(levels.highest, 1)), batched=True)


METHOD = Method(weights, activations)
