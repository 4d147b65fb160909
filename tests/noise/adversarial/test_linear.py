"""On a linear model the best attack is known in closed form, and gradient attacks find it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="gradients need torch")

from noise.adversarial.base import NORMS, Budget, Pictures  # noqa: E402 - behind the skip
from noise.adversarial.gradient.fgsm import fgsm  # noqa: E402
from noise.adversarial.gradient.mi_fgsm import mi_fgsm  # noqa: E402
from noise.adversarial.gradient.pgd import pgd  # noqa: E402
from tests.noise.adversarial.conformance import rngs  # noqa: E402

SHAPE = (3, 4, 4)
BUDGETS = {"linf": 0.1, "l2": 0.8, "l1": 1.3}
WEIGHTS = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
ORIGINALS = np.random.default_rng(1).uniform(0.05, 0.95, (4, *SHAPE)).astype(np.float32)


def scores(pictures: np.ndarray) -> np.ndarray:
    """What an attack has to raise, [n]."""
    return np.asarray((pictures.astype(float) * WEIGHTS).sum((1, 2, 3)))


def best_score(original: np.ndarray, budget: Budget) -> float:
    """The highest score within the budget and [0, 1], value by value."""
    room = np.where(WEIGHTS > 0, 1 - original, original).astype(float).ravel()
    slope = np.abs(WEIGHTS).astype(float).ravel()
    if budget.norm == "linf":
        gained = np.minimum(room, budget.epsilon) @ slope
    elif budget.norm == "l1":
        left, gained = budget.epsilon, 0.0
        for value in np.argsort(-slope):
            spent = min(left, room[value])
            left, gained = left - spent, gained + spent * slope[value]
    else:
        scales = np.linspace(0, 2, 200_001)  # change = min(scale * slope, room), as far as the length allows
        lengths = np.sqrt(sum(np.minimum(scales * each, most) ** 2 for each, most in zip(slope, room, strict=True)))
        gained = np.minimum(scales[lengths <= budget.epsilon].max() * slope, room) @ slope
    return float(scores(original[None])[0] + gained)


def never_misled(pictures: Any) -> Any:
    """Two classes that a linear score tells apart; the second is out of reach, so that an attack does all its steps."""
    raised = (pictures * torch.from_numpy(WEIGHTS)).sum((1, 2, 3))
    return torch.stack([torch.full_like(raised, 60.0), raised], 1) / 10


def attacked(attack: Any) -> Pictures:
    found: Pictures = attack(never_misled, ORIGINALS, np.zeros(len(ORIGINALS), np.int64), rngs(len(ORIGINALS)))
    return found


@pytest.mark.parametrize("norm", NORMS)
def test_one_step_finds_the_best_picture(norm: str) -> None:
    budget = Budget(norm, BUDGETS[norm])
    best = [best_score(original, budget) for original in ORIGINALS]
    np.testing.assert_allclose(scores(attacked(fgsm(budget))), best, rtol=1e-4)


@pytest.mark.parametrize(("norm", "reached"), [("linf", 1.0), ("l2", 0.999), ("l1", 0.95)])
def test_pgd_finds_the_best_picture(norm: str, reached: float) -> None:
    budget = Budget(norm, BUDGETS[norm])
    found, start = scores(attacked(pgd(budget, steps=60))), scores(ORIGINALS)
    for original, score, clean in zip(ORIGINALS, found, start, strict=True):
        best = best_score(original, budget)
        assert (score - clean) / (best - clean) == pytest.approx(reached, abs=1e-4 + 1 - reached)


@pytest.mark.parametrize("norm", NORMS)
def test_momentum_does_no_worse_than_steps_alone(norm: str) -> None:
    budget = Budget(norm, BUDGETS[norm])
    assert (scores(attacked(mi_fgsm(budget, steps=60))) >= scores(attacked(pgd(budget, steps=60))) - 0.02).all()
