"""The momentum iterative method: directions remember the gradients before them, which transfers better."""

from __future__ import annotations

from torch import Tensor

from noise.adversarial.base import Attack, Budget
from noise.adversarial.gradient.ball import Generators, ball_of
from noise.adversarial.gradient.losses import cross_entropy
from noise.adversarial.gradient.pgd import Climb, Climbers
from noise.adversarial.gradient.search import Aim, Best, Model, attack_from_search


def mi_fgsm(
    budget: Budget,
    *,
    steps: int = 20,
    step: float = 0.075,
    decay: float = 1.0,
    random_start: bool = False,
    early: bool = False,
) -> Attack:
    """Dong et al. 2018, algorithm 1: gradients over their mean size are summed, and the sum is climbed.

    Args:
        decay: how much of the sum each step keeps.
        random_start: start within the budget, as RobustART does; the paper starts at the picture itself.
        steps, step, early: see `noise.adversarial.gradient.pgd.pgd`.
    """
    climb = Climb(steps=steps, step=step, decay=decay, early=early)
    ball = ball_of(budget)

    def search(model: Model, originals: Tensor, labels: Tensor, rngs: Generators) -> Tensor:
        best = Best(originals)
        start = ball.start(originals, rngs) if random_start else originals
        climb.run(model, ball, Climbers(best.standing(), start, originals, Aim(cross_entropy, labels, labels)), best)
        return best.pictures

    return attack_from_search(search)
