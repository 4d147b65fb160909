"""The straight-through estimator: rounding is computed, and its derivative, zero almost everywhere, is taken for one.

Bengio, Leonard and Courville, "Estimating or Propagating Gradients Through Stochastic Neurons for Conditional
Computation", arXiv 1308.3432, 2013. What an integer clips has the derivative zero, as everywhere in quantisation-aware
training (Jacob et al., arXiv 1712.05877): there a small step changes nothing, and not for want of resolution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rounded_through(values: Tensor, rounded: Tensor) -> Tensor:
    """``rounded``, with the derivative one by ``values``, of which it has the shape and the type."""
    result: Tensor = _Rounded.apply(values, rounded)
    return result


def codes_through(values: Tensor, scale: Tensor, zero: Tensor, least: int, greatest: int) -> Tensor:
    """``clip(round(values / scale) + zero, least, greatest)``, halves to even, as numbers of the type of ``values``.

    The derivative by ``values`` is ``1 / scale`` where nothing is clipped, and zero elsewhere; so behind a
    multiplication by the scale it is one.

    Args:
        values: of any shape.
        scale, zero: of shapes that broadcast to that of ``values``, and of its type.
        least, greatest: the codes of the integer's type.
    """
    result: Tensor = _Codes.apply(values, scale, zero, least, greatest)
    return result


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rounded: Tensor) -> Tensor:
        del ctx, values
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _Codes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, zero: Tensor, least: int, greatest: int) -> Tensor:
        codes = (values / scale).round_().add_(zero)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward((codes >= least) & (codes <= greatest), scale)
        return codes.clamp_(least, greatest)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        inside, scale = ctx.saved_tensors
        return gradients[0] * inside / scale, None, None, None, None
