"""DoReFa: nothing is learned but the weights (Zhou et al., arXiv 1606.06160)."""

from __future__ import annotations

import torch
from torch import Tensor

from exporters.qat.base import Levels, Method, Quantiser, largest


class SquashedWeights(Quantiser):
    """``2 quantize_k(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1``, equation 9, times the magnitude of the first weights.

    In the paper a batch norm behind the layer makes up for the magnitude; here it is folded into the weights. The
    gradient passes the rounding (equation 5), and then tanh and the maximum as any other function.

    The paper's ``2^k`` levels leave zero out: they are the odd integers from ``1 - 2^k`` to ``2^k - 1`` times one step.
    No 8-bit integer holds these for k = 8, so that there the levels are the 255 integers from -127 to 127.

    Args:
        levels: to which integers.
        magnitude: float32, a scalar or [channels]: the greatest absolute weight at the beginning.
        axis: of the channels that are squashed each by itself.
    """

    def __init__(self, levels: Levels, magnitude: Tensor, axis: int | None = None) -> None:
        super().__init__(levels, axis)
        self.magnitude: Tensor
        self.register_buffer("magnitude", magnitude.detach().clone().float())
        self.steps = (1 << levels.bits) - (1 if levels.bits < 8 else 2)

    def forward(self, values: Tensor) -> Tensor:
        share = self._share(values)
        level = share + (torch.round(share * self.steps) / self.steps - share).detach()
        return self.spread(self.magnitude, values) * (2 * level - 1)

    def codes(self, values: Tensor) -> Tensor:
        doubled = 2 * torch.round(self._share(values.detach()) * self.steps).int() - self.steps
        return doubled if self.levels.bits < 8 else torch.div(doubled, 2, rounding_mode="floor")

    def scale(self) -> Tensor:
        return self.magnitude / (self.steps if self.levels.bits < 8 else self.steps // 2)

    def unrounded(self, values: Tensor) -> Tensor:
        return self.spread(self.magnitude, values) * (2 * self._share(values) - 1)

    def standing_for(self, values: Tensor) -> Tensor:
        # Folded batch norms make large weights, which tanh would squash: it is undone once. Any number below 1 can
        # stand for the magnitude; small weights stay nearly as they are.
        greatest = torch.tanh(self.magnitude.clamp(max=1.0))
        return torch.atanh(self.spread(greatest / self.magnitude, values) * values)

    def _share(self, values: Tensor) -> Tensor:
        """The weights from 0 to 1."""
        squashed = torch.tanh(values)
        return squashed / (2 * self.spread(largest(squashed, self.axis), values)) + 0.5


class FixedClip(Quantiser):
    """``quantize_k(clip(x, 0, 1))``, section 2.5, of activations that are divided by a constant first.

    The paper's clip at 1 suits what comes out of a batch norm; here calibration's reach stands for it. Activations that
    go below zero, which the paper does not have, are clipped at both ends.

    Args:
        levels: to which integers.
        reach: the constant.
    """

    def __init__(self, levels: Levels, reach: float) -> None:
        super().__init__(levels)
        self.reach: Tensor
        self.register_buffer("reach", torch.tensor(float(reach) or 1.0))

    def forward(self, values: Tensor) -> Tensor:
        clipped = torch.clamp(values, -self.reach if self.levels.signed else torch.zeros_like(self.reach), self.reach)
        return clipped + (self.scale() * self.codes(values) - clipped).detach()

    def codes(self, values: Tensor) -> Tensor:
        low = -self.levels.highest if self.levels.signed else 0
        return torch.round(values.detach() / self.scale()).clamp(low, self.levels.highest).int()

    def scale(self) -> Tensor:
        return self.reach / self.levels.highest


def weights(levels: Levels, initial: Tensor, axis: int | None) -> Quantiser:
    """The magnitude is that of the weights at the beginning."""
    return SquashedWeights(levels, largest(initial, axis), axis)


def activations(levels: Levels, reach: float) -> Quantiser:
    """The clip is calibration's reach."""
    return FixedClip(levels, reach)


METHOD = Method(weights, activations)
