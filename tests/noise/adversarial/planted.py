"""Networks that are certain to have an adversarial picture within a budget: a test of attacks, not of networks.

Zimmermann et al. 2022, "Increasing Confidence in Adversarial Robustness Evaluations": a picture at the edge of the
budget is planted, and the last layer is replaced by one that tells its features from those of the original and of
random pictures further inside. An attack that does not find the way there is broken. A search at random does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from noise.adversarial.base import Budget, Pictures
from noise.adversarial.gradient.ball import ball_of
from tests.noise.adversarial.conformance import SIDE

CLASSES = 5
FEATURES = 16
INNER = 200  # random pictures that must be read as the original is
INSIDE = 0.7  # of epsilon, how far out they may be
WIDTH = 40.0  # of the logits between original and planted picture


@dataclass(frozen=True)
class Planted:
    """A network that reads `original` as class 0 and the planted picture as class 1."""

    original: Pictures
    planted: Pictures
    features: Tensor
    normal: Tensor
    offset: Tensor

    def __call__(self, pictures: Tensor) -> Tensor:
        found = features_of(self.features, pictures)
        one = found @ self.normal - self.offset
        never = torch.arange(CLASSES - 2).to(one) - 3 * WIDTH
        return torch.cat([torch.stack([torch.zeros_like(one), one], 1), never.expand(len(one), -1)], 1)

    def predict(self, pictures: Pictures) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(self(torch.from_numpy(pictures)))

    def top(self, pictures: Pictures) -> np.ndarray:
        return np.asarray(self.predict(pictures).argmax(1))


def features_of(weights: Tensor, pictures: Tensor) -> Tensor:
    """[n, features]: a convolution, a kink, and means over quarters of the picture."""
    convolved = torch.nn.functional.conv2d(pictures - 0.5, weights, padding=1)
    return torch.nn.functional.adaptive_avg_pool2d(torch.nn.functional.softplus(convolved, 4), 2).flatten(1)


def planted(budget: Budget, seed: int) -> Planted:
    """A network with a planted picture that differs from the original by exactly the budget."""
    rng = np.random.default_rng(seed)
    original = rng.uniform(0.3, 0.7, (1, 3, SIDE, SIDE)).astype(np.float32)
    weights = torch.from_numpy(rng.normal(0, 0.4, (FEATURES, 3, 3, 3)).astype(np.float32))
    start = torch.from_numpy(original)
    # Where to: as far as the budget goes along the gradient of some direction of features.
    leaf = start.clone().requires_grad_()
    wish = torch.from_numpy(rng.normal(size=FEATURES * 4).astype(np.float32))
    (gradient,) = torch.autograd.grad((features_of(weights, leaf) @ wish).sum(), leaf)
    goal = ball_of(budget).extreme(start, gradient)
    inner = ball_of(Budget(budget.norm, INSIDE * budget.epsilon)).start(
        start.expand(INNER, -1, -1, -1), [np.random.default_rng((seed, number)) for number in range(INNER)]
    )
    inside = features_of(weights, torch.cat([start, inner]))
    normal = features_of(weights, goal)[0] - inside[0]
    scores, reached = inside @ normal, features_of(weights, goal)[0] @ normal
    scale = WIDTH / (reached - scores[0])
    # Between what random pictures reach and the planted one.
    offset = scores.max() + 0.5 * (reached - scores.max())
    return Planted(original, np.asarray(goal), weights, normal * scale, offset * scale)
