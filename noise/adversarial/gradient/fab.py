"""The fast adaptive boundary attack: it looks for the nearest misread picture, whatever the budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from noise.adversarial.base import L1, L2, LINF, Attack, Budget
from noise.adversarial.gradient.apgd import likeliest
from noise.adversarial.gradient.ball import Generators, ball_of, each
from noise.adversarial.gradient.hyperplane import onto_hyperplane
from noise.adversarial.gradient.search import Aim, Model, attack_from_search, look
from noise.base import NoiseError

SHORTEST = 1e-8
ORDERS = {LINF: torch.inf, L2: 2, L1: 1}


def fab_t(
    budget: Budget,
    *,
    steps: int = 100,
    targets: int = 9,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
) -> Attack:
    """FAB-T of Croce & Hein 2020b: onto the linearised boundary to one class after the other, keeping near the picture.

    A picture is let go of as soon as a misread one within the budget is found: a nearer one would not count more. It
    draws nothing.

    Args:
        steps: towards each class; each is a pass forward and back, and one forward.
        targets: classes that are tried, those of the highest logits first.
        alpha_max: the greatest share that a step takes from the original's way to the boundary.
        eta: how far a step goes beyond the boundary.
        beta: how much of its distance a misread picture keeps.
    """
    if steps < 1 or targets < 1:
        raise NoiseError(f"fab-t takes at least 1 step and 1 target; got {steps} and {targets}")
    pace, ball = Pace(steps, alpha_max, eta, beta), ball_of(budget)

    def search(model: Model, originals: Tensor, labels: Tensor, rngs: Generators) -> Tensor:
        nearest = Nearest(originals, budget)
        for classes in likeliest(model, originals, targets).unbind(1):
            pace.run(model, originals, Aim(difference, labels, classes), nearest)
        return torch.where(each(nearest.within()), nearest.pictures, ball.project(nearest.pictures, originals))

    return attack_from_search(search)


def difference(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """[n]: the target's logit minus that of the true class."""
    true, wanted = (logits.gather(1, classes[:, None])[:, 0] for classes in (labels, targets))
    return wanted - true


class Nearest:
    """For each picture the nearest misread one, which may be outside the budget; without one, the picture itself."""

    def __init__(self, originals: Tensor, budget: Budget) -> None:
        self.budget = budget
        self.pictures = originals.clone()
        self.distances = torch.full((len(originals),), torch.inf, dtype=torch.float64, device=originals.device)

    def within(self) -> Tensor:
        """[n]: whether the nearest is within the budget."""
        return self.distances <= self.budget.epsilon

    def keep(self, rows: Tensor, pictures: Tensor, originals: Tensor) -> None:
        """Take misread pictures of some rows where they are nearer."""
        distances = lengths((pictures.double() - originals.double()).flatten(1), self.budget.norm)
        nearer = distances < self.distances[rows]
        self.pictures[rows[nearer]] = pictures[nearer]
        self.distances[rows[nearer]] = distances[nearer]


def lengths(changes: Tensor, norm: str) -> Tensor:
    """[n]: the norm of each of [n, values]."""
    distances: Tensor = torch.linalg.vector_norm(changes, ORDERS[norm], dim=1)
    return distances


@dataclass(frozen=True)
class Pace:
    """How steps are taken. See `fab_t` for its fields."""

    steps: int
    alpha_max: float
    eta: float
    beta: float

    def run(self, model: Model, originals: Tensor, aim: Aim, nearest: Nearest) -> None:
        """Go to the boundary of one class from every picture for which nothing within the budget is found yet."""
        pictures = originals
        rows = torch.arange(len(originals), device=originals.device)
        for _ in range(self.steps):
            standing = ~nearest.within()[rows]
            rows, pictures = rows[standing], pictures[standing]
            if not len(rows):
                return
            start, own = originals[rows], aim.of(rows)
            pictures = self.step(model, pictures, start, own, nearest.budget.norm)
            with torch.no_grad():
                misread = model(pictures).argmax(1) != own.labels
            nearest.keep(rows[misread], pictures[misread], start[misread])
            pictures = torch.where(each(misread), start + self.beta * (pictures - start), pictures)

    def step(self, model: Model, pictures: Tensor, originals: Tensor, aim: Aim, norm: str) -> Tensor:
        """Algorithm 1, lines 8 to 12: from the picture and from the original onto the boundary, and a mean of both."""
        seen = look(model, pictures, aim)
        here, start, normals = (values.flatten(1).double() for values in (pictures, originals, seen.gradients))
        gaps = -seen.losses.double()
        gaps_from_start = gaps + (normals * (here - start)).sum(1)
        moved = onto_hyperplane(here, normals, gaps, norm)
        moved_from_start = onto_hyperplane(start, normals, gaps_from_start, norm)
        length, length_from_start = (
            lengths(each_way, norm).clamp(min=SHORTEST) for each_way in (moved, moved_from_start)
        )
        alpha = (length / (length + length_from_start)).clamp(max=self.alpha_max)[:, None]
        mixed = (here + self.eta * moved) * (1 - alpha) + (start + self.eta * moved_from_start) * alpha
        return mixed.view_as(pictures).to(pictures.dtype).clamp(0, 1)
