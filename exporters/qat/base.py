"""What a quantiser is: rounding that a gradient passes, and the integers that the deployed file holds in its place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from exporters.base import ExportError
from exporters.qat.options import BITS


@dataclass(frozen=True)
class Levels:
    """The integers that a tensor may become.

    Args:
        bits: 2 to 8.
        signed: whether they reach below zero: for weights and for activations that do.
    """

    bits: int
    signed: bool

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ExportError(f"training quantises to {BITS[0]} to {BITS[-1]} bits; got {self.bits}")

    @property
    def lowest(self) -> int:
        """The least integer."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        """The greatest integer."""
        return (1 << (self.bits - 1 if self.signed else self.bits)) - 1


class Quantiser(nn.Module, ABC):
    """Rounds a tensor to ``scale() * codes(x)``, and lets a gradient through.

    Args:
        levels: to which integers.
        axis: of the channels that have a scale each; ``None`` for one scale.
    """

    def __init__(self, levels: Levels, axis: int | None = None) -> None:
        super().__init__()
        self.levels = levels
        self.axis = axis

    @abstractmethod
    def forward(self, values: Tensor) -> Tensor:
        """float32 as the values, rounded: ``scale() * codes(values)`` to float rounding."""

    @abstractmethod
    def codes(self, values: Tensor) -> Tensor:
        """int32 as the values: the integers that a device computes with."""

    @abstractmethod
    def scale(self) -> Tensor:
        """float32, a scalar or [channels]: what one step is worth. Positive."""

    def decayed(self) -> list[nn.Parameter]:
        """Of what it learns, what weight decay draws to zero as it does weights."""
        return []

    def unrounded(self, values: Tensor) -> Tensor:
        """What the values stand for, but for rounding and clipping."""
        return values

    def standing_for(self, values: Tensor) -> Tensor:
        """What to learn from, so that `unrounded` begins as these values."""
        return values

    def spread(self, per_channel: Tensor, values: Tensor) -> Tensor:
        """One number per channel, in the shape in which it multiplies the values."""
        if self.axis is None or per_channel.ndim == 0:
            return per_channel
        shape = [1] * values.ndim
        shape[self.axis] = -1
        return per_channel.reshape(shape)


class Method(NamedTuple):
    """What a row of `exporters.TRAINED` names.

    Args:
        weights: (levels, the weights to begin with, axis of the channels with a scale each or ``None``) -> quantiser.
        activations: (levels, how far from zero calibration saw them) -> quantiser.
    """

    weights: Callable[[Levels, Tensor, int | None], Quantiser]
    activations: Callable[[Levels, float], Quantiser]


def rounded(values: Tensor) -> Tensor:
    """Round to the nearest integer, halves to even; the gradient passes unchanged (straight through, Bengio 2013)."""
    return values + (torch.round(values) - values).detach()


def scaled_gradient(values: Tensor, factor: float) -> Tensor:
    """The values as they are; their gradient is multiplied by ``factor``."""
    return values * factor + (values - values * factor).detach()


def positive(scale: Tensor) -> Tensor:
    """A learned step that never reaches zero, where it would round nothing and divide by zero."""
    return scale.abs().clamp(min=torch.finfo(torch.float32).tiny * 2**20)


def largest(values: Tensor, axis: int | None) -> Tensor:
    """The greatest absolute value, of each channel of ``axis`` or of all; 1 where all are zero."""
    found = values.abs().max() if axis is None else values.abs().movedim(axis, 0).flatten(1).amax(dim=1)
    return torch.where(found > 0, found, torch.ones_like(found))
