"""PACT: activations are clipped where training finds best (Choi et al., arXiv 1805.06085). Weights are DoReFa's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from exporters.qat.base import Levels, Method, Quantiser, positive
from exporters.qat.dorefa import weights


class LearnedClip(Quantiser):
    """``y = clip(x, 0, a)``, equation 1, rounded to ``2^k - 1`` steps, equation 2.

    The gradient of the clip is equation 3: 1 where x reaches it, 0 elsewhere; that of x is 1 between 0 and the clip.
    Weight decay draws the clip to zero as it does weights: the paper's L2 regulariser of the clip, section 3.

    The paper knows activations behind a ReLU only. Others are clipped at -a and a, with -1 where x reaches -a.

    Args:
        levels: to which integers.
        reach: the clip to begin with.
    """

    def __init__(self, levels: Levels, reach: float) -> None:
        super().__init__(levels)
        self.clip = nn.Parameter(torch.tensor(float(reach) or 1.0))

    def forward(self, values: Tensor) -> Tensor:
        clip = positive(self.clip)
        low = -clip if self.levels.signed else torch.zeros_like(clip)
        clipped = torch.minimum(torch.maximum(values, low), clip)
        return clipped + (self.scale() * self.codes(values) - clipped).detach()

    def codes(self, values: Tensor) -> Tensor:
        low = -self.levels.highest if self.levels.signed else 0
        return torch.round(values / self.scale()).clamp(low, self.levels.highest).int()

    def decayed(self) -> list[nn.Parameter]:
        return [self.clip]

    def scale(self) -> Tensor:
        return positive(self.clip.detach()) / self.levels.highest


def activations(levels: Levels, reach: float) -> Quantiser:
    """The clip begins at calibration's reach."""
    return LearnedClip(levels, reach)


METHOD = Method(weights, activations)
