"""RayS: the nearest misread picture along a direction of signs, from top classes alone.

Chen and Gu 2020 (arXiv 2006.12792), algorithms 1 and 3. Chosen before HopSkipJump (Chen et al. 2020) for l-inf at some
thousand queries: it searches the corners of the l-inf ball by flipping ever smaller blocks of signs and spends one
query on most flips, while HopSkipJump spends a hundred and more on each estimate of a gradient at the boundary. It
needs no random numbers and has one constant. Difference: how far a flip shortens the way is searched from the outside
in steps that double, since most flips gain little, and not by bisection from the picture itself.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from functools import partial
from itertools import count

import numpy as np

from noise.adversarial import DECISION
from noise.adversarial.base import LINF, Budget, Pictures
from noise.adversarial.ledger import Floats, Search, Terms
from noise.adversarial.query.attack import QueryAttack
from noise.base import NoiseError


def rays(budget: Budget, *, queries: int = 5000, tolerance: float = 0.005) -> QueryAttack:
    """RayS in l-inf.

    Args:
        budget: in `LINF`.
        queries: forward passes for each picture, the clean one included.
        tolerance: how closely the radius along a direction is known, in epsilons.
    """
    if budget.norm != LINF:
        raise NoiseError(f"rays is bounded in {LINF}; got {budget.name}")
    if not 0 < tolerance < 1:
        raise NoiseError(f"the tolerance of rays is a share of epsilon, between 0 and 1; got {tolerance:g}")
    new_search = partial(_search, epsilon=budget.epsilon, tolerance=tolerance * budget.epsilon)
    return QueryAttack(Terms(budget, queries, DECISION), new_search)


def _search(
    original: Pictures, start: Pictures | None, rng: np.random.Generator, *, epsilon: float, tolerance: float
) -> Search:
    """Flip blocks of signs, halves first, and keep a flip that shortens the way to a misread picture."""
    del rng
    signs = np.ones(original.size, np.float32)
    if start is not None:
        signs[(start < original).ravel()] = -1
        yield [_at(original, signs, epsilon)]
    radius = yield from _shorter(original, signs, 1.0, tolerance)
    for level in count():
        size = math.ceil(original.size / 2**level)
        for begin in range(0, original.size, size):
            flipped = signs.copy()
            flipped[begin : begin + size] *= -1
            reached = yield from _shorter(original, flipped, radius, tolerance)
            if reached < radius:
                signs, radius = flipped, reached


def _shorter(
    original: Pictures, signs: Floats, radius: float, tolerance: float
) -> Generator[Iterable[Pictures], Floats, float]:
    """A radius at which a direction is misread, where that is below ``radius`` by the tolerance; else ``radius``.

    Most flips fail, and most others gain little: so the first question is about a gain by the tolerance, and the
    following double it, until bisection takes over.
    """
    misread, right, gain = radius, 0.0, tolerance
    while misread - right > tolerance:
        tried = max(misread - gain, (misread + right) / 2)
        (margin,) = yield [_at(original, signs, tried)]
        if margin > 0:
            right = tried
            if misread == radius:
                return radius
        else:
            misread = tried
        gain *= 2
    return misread


def _at(original: Pictures, signs: Floats, radius: float) -> Pictures:
    return np.clip(original + np.float32(radius) * signs.reshape(original.shape), 0, 1)
