"""Projected gradient descent with steps of one length, and the climb that it shares with the momentum method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from noise.adversarial.base import Attack, Budget
from noise.adversarial.gradient.ball import TINY, Ball, Generators, ball_of, each
from noise.adversarial.gradient.losses import cross_entropy
from noise.adversarial.gradient.search import (
    Aim,
    Best,
    Model,
    attack_from_search,
    glance,
    look,
)
from noise.base import NoiseError


def pgd(
    budget: Budget,
    *,
    steps: int = 20,
    step: float = 0.075,
    restarts: int = 1,
    sparsity: float = 0.01,
    early: bool = False,
) -> Attack:
    """Madry et al. 2018: climb cross-entropy from a random start, and come back into the budget after every step.

    Of all pictures on the way the best is kept: a misread one of the highest loss.

    Args:
        steps: gradients for each start; one more pass reads the last picture.
        step: length of a step, as a share of epsilon.
        restarts: starts; from the second on only for pictures that are still read right.
        sparsity: in l1, the share of values that a step moves.
        early: let a picture go as soon as it is misread. That takes fewer passes and changes no robust accuracy of this
            model, but what is found is only just misread, and other models are misled by it less often.
    """
    if restarts < 1:
        raise NoiseError(f"pgd starts at least once; got {restarts} restarts")
    climb = Climb(steps=steps, step=step, sparsity=sparsity, early=early)
    ball = ball_of(budget)

    def search(model: Model, originals: Tensor, labels: Tensor, rngs: Generators) -> Tensor:
        best, aim = Best(originals), Aim(cross_entropy, labels, labels)
        for _ in range(restarts):
            rows = best.standing()
            if not len(rows):
                break
            start = ball.start(originals[rows], [rngs[row] for row in rows.tolist()])
            climb.run(model, ball, Climbers(rows, start, originals[rows], aim.of(rows)), best)
        return best.pictures

    return attack_from_search(search)


@dataclass(frozen=True)
class Climbers:
    """Pictures on their way up.

    Args:
        rows: [n], their places in the batch.
        pictures, originals: [n, 3, H, W], where they are and where they come from.
        aim: what they want.
    """

    rows: Tensor
    pictures: Tensor
    originals: Tensor
    aim: Aim

    def of(self, chosen: Tensor) -> Climbers:
        """Some of them."""
        return Climbers(self.rows[chosen], self.pictures[chosen], self.originals[chosen], self.aim.of(chosen))


@dataclass(frozen=True)
class Climb:
    """Steps of one length. See `pgd` for its fields.

    Args:
        decay: how much of the direction so far each new one keeps (Dong et al. 2018, equation 6).
    """

    steps: int
    step: float
    sparsity: float = 0.01
    early: bool = False
    decay: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise NoiseError(f"an attack takes at least 1 step; got {self.steps}")
        if not 0 < self.step <= 2:
            raise NoiseError(f"a step is a share of epsilon, at most 2, from edge to edge; got {self.step:g}")
        if not 0 < self.sparsity <= 1:
            raise NoiseError(f"sparsity is a share of the values, above 0 and at most 1; got {self.sparsity:g}")
        if self.decay < 0:
            raise NoiseError(f"decay is 0 or more; got {self.decay:g}")

    def run(self, model: Model, ball: Ball, climbers: Climbers, best: Best) -> None:
        """Climb, and tell `best` of every picture on the way."""
        direction = torch.zeros_like(climbers.pictures)
        for _ in range(self.steps):
            seen = look(model, climbers.pictures, climbers.aim)
            best.keep(climbers.rows, climbers.pictures, seen)
            gradients = seen.gradients
            if self.early:
                standing = (~seen.misread).nonzero().flatten()
                climbers, direction, gradients = climbers.of(standing), direction[standing], gradients[standing]
                if not len(standing):
                    return
            size = gradients.abs().flatten(1).mean(1).clamp(min=TINY)
            direction = self.decay * direction + gradients / each(size)
            lengths = torch.full_like(size, self.step * ball.epsilon)
            moved = ball.step(climbers.pictures, direction, lengths, torch.full_like(size, self.sparsity))
            climbers = Climbers(
                climbers.rows, ball.project(moved, climbers.originals), climbers.originals, climbers.aim
            )
        best.keep(climbers.rows, climbers.pictures, glance(model, climbers.pictures, climbers.aim))
