"""The three budgets as sets: where a search may start, how it steps, and the way back.

All projections are the exact ones onto the ball *and* the box of pictures, [0, 1], together. Clipping after a
projection onto the ball alone wastes what the box cuts off; Croce & Hein 2021 show how much that costs in l1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from noise.adversarial.base import L1, L2, LINF, Budget

TINY = 1e-12  # keeps a vanished gradient from dividing by zero
ROUNDS = 100  # far more than Newton and halving take
CLOSE = 1e-9  # how exactly a budget is spent, as a share of it

Generators = Sequence[np.random.Generator]


class Ball(Protocol):
    """All pictures within a budget.

    Pictures and gradients are float32 [n, 3, H, W]; lengths are [n], in the budget's norm.
    """

    @property
    def norm(self) -> str:
        """Of `noise.adversarial.base.NORMS`."""

    @property
    def epsilon(self) -> float:
        """The radius."""

    def start(self, originals: Tensor, rngs: Generators) -> Tensor:
        """A random picture for each, drawn evenly from the ball by its own generator, then projected."""

    def step(self, pictures: Tensor, gradients: Tensor, lengths: Tensor, sparsity: Tensor) -> Tensor:
        """Go uphill by a length, perhaps out of the ball.

        Args:
            sparsity: [n], in l1 the share of values that move.
        """

    def project(self, pictures: Tensor, originals: Tensor) -> Tensor:
        """The nearest pictures within the budget and within [0, 1]; nearest in l2."""

    def extreme(self, originals: Tensor, gradients: Tensor) -> Tensor:
        """The pictures of the ball that a linear loss of this gradient likes best."""


def ball_of(budget: Budget) -> Ball:
    """The ball of a budget."""
    kinds: dict[str, type[LinfBall] | type[L2Ball] | type[L1Ball]] = {LINF: LinfBall, L2: L2Ball, L1: L1Ball}
    return kinds[budget.norm](budget.epsilon)


@dataclass(frozen=True)
class LinfBall:
    """Every value may change by epsilon."""

    epsilon: float
    norm: ClassVar[str] = LINF

    def start(self, originals: Tensor, rngs: Generators) -> Tensor:
        noise = _drawn(originals, [rng.uniform(-1, 1, originals.shape[1:]) for rng in rngs])
        return self.project(originals + self.epsilon * noise, originals)

    def step(self, pictures: Tensor, gradients: Tensor, lengths: Tensor, sparsity: Tensor) -> Tensor:
        return pictures + each(lengths) * gradients.sign()

    def project(self, pictures: Tensor, originals: Tensor) -> Tensor:
        within = torch.minimum(torch.maximum(pictures, originals - self.epsilon), originals + self.epsilon)
        return within.clamp(0, 1)

    def extreme(self, originals: Tensor, gradients: Tensor) -> Tensor:
        return (originals + self.epsilon * gradients.sign()).clamp(0, 1)


@dataclass(frozen=True)
class L2Ball:
    """The root of the sum of squared changes is at most epsilon."""

    epsilon: float
    norm: ClassVar[str] = L2

    def start(self, originals: Tensor, rngs: Generators) -> Tensor:
        directions = _drawn(originals, [rng.standard_normal(originals.shape[1:]) for rng in rngs])
        return self.project(originals + each(_radii(originals, rngs, self.epsilon)) * unit(directions), originals)

    def step(self, pictures: Tensor, gradients: Tensor, lengths: Tensor, sparsity: Tensor) -> Tensor:
        return pictures + each(lengths) * unit(gradients)

    def project(self, pictures: Tensor, originals: Tensor) -> Tensor:
        """``clip(original + s * change)`` with the greatest s <= 1 that the ball allows.

        Found from below: with the values that the box holds at one s, the next s has a closed form, and no value is
        ever let go of again.
        """
        change = (pictures - originals).flatten(1).double()
        room = torch.where(change > 0, 1 - originals.flatten(1).double(), originals.flatten(1).double())
        size = change.abs()
        scale = (self.epsilon / size.norm(dim=1).clamp(min=TINY)).clamp(max=1)
        while True:
            held = scale[:, None] * size > room
            left = (self.epsilon**2 - torch.where(held, room, 0).square().sum(1)).clamp(min=0)
            free = torch.where(held, 0, size).square().sum(1)
            grown = torch.maximum(scale, (left / free.clamp(min=TINY)).sqrt().clamp(max=1))
            if torch.equal(scale[:, None] * size > room, grown[:, None] * size > room):
                break
            scale = grown
        return _moved(originals, torch.minimum(grown[:, None] * size, room) * change.sign())

    def extreme(self, originals: Tensor, gradients: Tensor) -> Tensor:
        """The projection of a point far away along the gradient."""
        furthest = gradients.flatten(1).abs().amax(1).clamp(min=TINY)
        smallest = 1e-6  # of the largest gradient; what is below may stop short of the box
        return self.project(originals + gradients / each(furthest) / smallest, originals)


@dataclass(frozen=True)
class L1Ball:
    """The sum of absolute changes is at most epsilon."""

    epsilon: float
    norm: ClassVar[str] = L1

    def start(self, originals: Tensor, rngs: Generators) -> Tensor:
        directions = _drawn(originals, [rng.laplace(size=originals.shape[1:]) for rng in rngs])
        lengths = _radii(originals, rngs, self.epsilon) / directions.abs().flatten(1).sum(1)
        return self.project(originals + each(lengths) * directions, originals)

    def step(self, pictures: Tensor, gradients: Tensor, lengths: Tensor, sparsity: Tensor) -> Tensor:
        """Values in the order of their gradients go up to one share of the length each, until it is spent.

        A share is what as many values as ``sparsity`` says would get (SLIDE, Tramer & Boneh 2019); where the box
        holds a value back, the rest goes to the next. A step along the whole gradient, as ART and foolbox take it,
        spreads its length thinly over all values.
        """
        values = pictures[0].numel()
        shares = lengths / (sparsity * values).floor().clamp(1, values)
        return pictures + _spent(pictures, gradients, lengths, shares)

    def project(self, pictures: Tensor, originals: Tensor) -> Tensor:
        """Changes shrink by one amount for all values, and end at the box (Croce & Hein 2021).

        The sum that is left is piecewise linear in the amount: Newton's steps find it, and halving where they leave the
        bracket.
        """
        change = (pictures - originals).flatten(1).double()
        room = torch.where(change > 0, 1 - originals.flatten(1).double(), originals.flatten(1).double())
        size = change.abs()
        low, amount = torch.zeros_like(size[:, 0]), torch.zeros_like(size[:, 0])
        high = size.amax(1)
        for _ in range(ROUNDS):
            rest = size - amount[:, None]
            shrunk = torch.minimum(rest.clamp(min=0), room)
            excess = shrunk.sum(1) - self.epsilon
            wrong = (excess > CLOSE * self.epsilon) | ((amount > 0) & (excess < -CLOSE * self.epsilon))
            if not bool(wrong.any()):
                break
            low, high = torch.where(excess > 0, amount, low), torch.where(excess > 0, high, amount)
            moving = ((rest > 0) & (rest < room)).sum(1)
            newton = amount + excess / moving
            amount = torch.where(wrong, torch.where((low < newton) & (newton < high), newton, (low + high) / 2), amount)
        return _moved(originals, shrunk * change.sign())

    def extreme(self, originals: Tensor, gradients: Tensor) -> Tensor:
        """Values in the order of their gradients, each as far as the box lets it go, until epsilon is spent."""
        lengths = torch.full_like(originals[:, 0, 0, 0], self.epsilon)
        return (originals + _spent(originals, gradients, lengths, lengths)).clamp(0, 1)


def _moved(originals: Tensor, changes: Tensor) -> Tensor:
    """Originals plus changes [n, values] in float64, rounded to float32 towards the original.

    Rounded to nearest, 150,000 changes of 1e-4 may add up to more than the sum that they were made for.
    """
    changes = changes.view_as(originals)
    nearest = originals + changes.to(originals.dtype)
    longer = (nearest.double() - originals.double()).abs() > changes.abs()
    return torch.where(longer, nearest.nextafter(originals), nearest).clamp(0, 1)


def _spent(pictures: Tensor, gradients: Tensor, lengths: Tensor, shares: Tensor) -> Tensor:
    """Changes within [0, 1] that spend l1 lengths [n] on the largest gradients, up to a share [n] on each value."""
    room = torch.where(gradients > 0, 1 - pictures, pictures) * (gradients != 0)
    most = torch.minimum(room.flatten(1).double(), shares[:, None])
    order = gradients.flatten(1).abs().argsort(dim=1, descending=True)
    sorted_most = most.gather(1, order)
    left = lengths[:, None] - (sorted_most.cumsum(1) - sorted_most)
    change = torch.zeros_like(most).scatter(1, order, torch.minimum(sorted_most, left.clamp(min=0)))
    return change.view_as(pictures).to(pictures.dtype) * gradients.sign()


def each(values: Tensor) -> Tensor:
    """[n] as [n, 1, 1, 1], one value for each picture."""
    return values[:, None, None, None]


def unit(directions: Tensor) -> Tensor:
    """Directions of length 1 in l2; those of no length stay as they are."""
    return directions / each(directions.flatten(1).norm(dim=1).clamp(min=TINY))


def _drawn(originals: Tensor, draws: Sequence[np.ndarray]) -> Tensor:
    """Draws of NumPy, one for each picture, as a tensor like the pictures."""
    return torch.from_numpy(np.stack(draws)).to(originals)


def _radii(originals: Tensor, rngs: Generators, epsilon: float) -> Tensor:
    """[n]: distances from the centre that make draws even over the volume of the ball."""
    values = originals[0].numel()
    return torch.tensor([epsilon * rng.uniform() ** (1 / values) for rng in rngs]).to(originals)
