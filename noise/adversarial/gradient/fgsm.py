"""The fast gradient sign method, and its like in l2 and l1: one step, as far as the budget goes."""

from __future__ import annotations

from torch import Tensor

from noise.adversarial.base import Attack, Budget
from noise.adversarial.gradient.ball import Generators, ball_of
from noise.adversarial.gradient.losses import cross_entropy
from noise.adversarial.gradient.search import Aim, Model, attack_from_search, look


def fgsm(budget: Budget) -> Attack:
    """Goodfellow et al. 2015: the best picture of the budget, if cross-entropy were linear.

    In l-inf that is ``x + epsilon * sign(gradient)``. In l2 and l1 the box of pictures is heeded, so that values at its
    edge leave their part of the budget to others; foolbox clips instead. It draws nothing.
    """
    ball = ball_of(budget)

    def search(model: Model, originals: Tensor, labels: Tensor, rngs: Generators) -> Tensor:
        seen = look(model, originals, Aim(cross_entropy, labels, labels))
        return ball.extreme(originals, seen.gradients)

    return attack_from_search(search)
