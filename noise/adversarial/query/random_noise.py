"""Random noise that uses the whole budget: the control that every attack must beat.

An attack that breaks no more pictures than this has found nothing. Its noise has no direction of its own, so it needs
no more than the top class, and can be tried on every engine.
"""

from __future__ import annotations

from functools import partial
from itertools import count

import numpy as np

from noise.adversarial import DECISION
from noise.adversarial.base import L2, LINF, Budget, Pictures
from noise.adversarial.ledger import Floats, Search, Terms
from noise.adversarial.query.attack import QueryAttack


def random_noise(budget: Budget, *, queries: int = 2) -> QueryAttack:
    """Noise as far from the picture as the budget allows, before it is cut to black and white.

    Args:
        budget: signs in `LINF`, a Gaussian in `L2` and a Laplacian in `L1`, scaled to the norm.
        queries: forward passes for each picture, the clean one included; all others are draws.
    """
    return QueryAttack(Terms(budget, queries, DECISION), partial(_search, budget=budget))


def _search(original: Pictures, start: Pictures | None, rng: np.random.Generator, *, budget: Budget) -> Search:
    if start is not None:
        yield [start]
    yield (noisy(original, rng, budget) for _ in count())


def noisy(original: Pictures, rng: np.random.Generator, budget: Budget) -> Pictures:
    """One draw for a picture, float32 [3, H, W]."""
    noise = _draw(rng, budget.norm, original.shape)
    noise *= np.float32(budget.epsilon / budget.distance(noise[None], np.zeros_like(noise)[None])[0])
    return np.asarray(np.clip(original + noise, 0, 1))


def _draw(rng: np.random.Generator, norm: str, shape: tuple[int, ...]) -> Floats:
    if norm == LINF:
        return rng.choice(np.array([-1, 1], np.float32), shape)
    if norm == L2:
        return rng.standard_normal(shape, np.float32)
    return rng.laplace(size=shape).astype(np.float32)
