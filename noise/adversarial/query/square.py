"""Square attack: random search over square patches of the perturbation.

Andriushchenko, Croce, Flammarion, Hein 2020 (arXiv 1912.00049), in the form of AutoAttack's "standard": margin loss,
side of the squares from p = 0.8, its schedule stretched to the number of queries. Differences: squares and signs are
drawn for each picture, not once for a batch, and a window may touch the lower and right edge.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import cache, partial
from itertools import count

import numpy as np
import numpy.typing as npt

from noise.adversarial import SCORES
from noise.adversarial.base import L2, LINF, Budget, Pictures
from noise.adversarial.ledger import Floats, Search, Terms
from noise.adversarial.query.attack import QueryAttack
from noise.base import NoiseError

Window = tuple[slice, slice, slice]

# After so many of 10,000 iterations the share p of a picture that a square covers is halved once more (section 4).
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
FULL_SCHEDULE = 10_000
SMALLEST_L2_SIDE = 3
TILES = 5
NOTHING = 1e-12


def square(budget: Budget, *, queries: int = 5000, p_init: float = 0.8) -> QueryAttack:
    """Square in l-inf or l2.

    Args:
        budget: in `LINF` or `L2`.
        queries: forward passes for each picture, the clean one included.
        p_init: share of the picture that the first squares cover.
    """
    if not 0 < p_init <= 1:
        raise NoiseError(f"p_init is a share of the picture, above 0 and at most 1; got {p_init:g}")
    searches = {LINF: _linf_search, L2: _l2_search}
    if budget.norm not in searches:
        raise NoiseError(f"square is bounded in {LINF} or {L2}; got {budget.name}")
    new_search = partial(searches[budget.norm], schedule=_Schedule(queries, p_init), epsilon=budget.epsilon)
    return QueryAttack(Terms(budget, queries, SCORES), new_search)


class _Schedule:
    """How large squares are."""

    def __init__(self, queries: int, p_init: float) -> None:
        self.queries, self.p_init = queries, p_init

    def share(self, iteration: int) -> float:
        """The share of the picture that a square covers in an iteration from 0 on."""
        return self.p_init * 0.5 ** bisect_left(HALVINGS, iteration * FULL_SCHEDULE // self.queries)

    def side(self, iteration: int, height: int, width: int) -> int:
        """The side of a square in pixels."""
        side = round(math.sqrt(self.share(iteration) * height * width))
        return min(max(side, 1), height, width)


def _linf_search(
    original: Pictures, start: Pictures | None, rng: np.random.Generator, *, schedule: _Schedule, epsilon: float
) -> Search:
    """Algorithm 1 with the l-inf distribution of algorithm 2: every square moves to a corner of the budget."""
    channels, height, width = original.shape
    if start is None:
        start = _within(original, epsilon * _signs(rng, (channels, 1, width)))
    best = start
    (margin,) = yield [best]
    for iteration in count():
        side = schedule.side(iteration, height, width)
        window = _window(rng, side, height, width)
        candidate = best.copy()
        candidate[window] = _within(original[window], epsilon * _signs(rng, (channels, 1, 1)))
        (answer,) = yield [candidate]
        if answer < margin:
            best, margin = candidate, answer


def _l2_search(
    original: Pictures, start: Pictures | None, rng: np.random.Generator, *, schedule: _Schedule, epsilon: float
) -> Search:
    """Algorithm 1 with the l2 distribution of algorithm 3: one window takes over the length of another."""
    channels, height, width = original.shape
    if start is None:
        start = _within(original, _of_length(_tiles(rng, (channels, height, width)), epsilon))
    best = start
    (margin,) = yield [best]
    for iteration in count():
        side = max(schedule.side(iteration, height, width), SMALLEST_L2_SIDE)
        side = min(side + (side % 2 == 0), height, width)
        change = best - original
        window, emptied = (_window(rng, side, height, width) for _ in range(2))
        bump = _bump(side)
        bump = bump.T if rng.random() < 0.5 else bump
        filled = _filled(change, window, emptied, bump * _signs(rng, (channels, 1, 1)), epsilon)
        change[emptied] = 0
        change[window] = filled
        candidate = _within(original, _of_length(change, epsilon))
        (answer,) = yield [candidate]
        if answer < margin:
            best, margin = candidate, answer


def _filled(change: Floats, window: Window, emptied: Window, bump: Floats, epsilon: float) -> Floats:
    """What comes into a window: the old direction plus the bump, with the length that both windows and the rest leave.

    Args:
        bump: [3, side, side], of length 1 in every channel.
    """
    channels = len(change)
    old = change[window]
    direction = bump + old / (NOTHING + _lengths(old))
    direction /= NOTHING + _lengths(direction)
    # Of the union of both windows, in which the overlap counts once; over all channels, as in AutoAttack. (The paper
    # sums each channel by itself.)
    squares = change**2
    moved = float(squares[window].sum())
    squares[window] = 0
    moved += float(squares[emptied].sum())
    unused = max(epsilon**2 - float(np.square(change, dtype=np.float64).sum()), 0)
    return direction * np.float32(math.sqrt(unused / channels + moved))


def _tiles(rng: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    """Where the l2 search begins: five by five bumps of random sign."""
    channels, height, width = shape
    change = np.zeros(shape, np.float32)
    side = max(min(height, width) // TILES, 2)
    for top in range(height % side // 2, height - side + 1, side):
        for left in range(width % side // 2, width - side + 1, side):
            bump = _bump(side)
            bump = bump.T if rng.random() < 0.5 else bump
            change[:, top : top + side, left : left + side] = bump * _signs(rng, (channels, 1, 1))
    return change


@cache
def _bump(side: int) -> Floats:
    """[side, side], of length 1: a rise in the upper half and its negative in the lower one (equation 2)."""
    bump = np.concatenate([_rise(side // 2, side), -_rise(side - side // 2, side)])
    return np.asarray(bump / np.linalg.norm(bump), np.float32)


def _rise(height: int, width: int) -> npt.NDArray[np.float64]:
    """[height, width], of length 1: rectangles around the centre, the n-th outwards weighing 1 / n**2."""
    rise = np.zeros((height, width))
    top, left = height // 2, width // 2
    for ring in range(max(top, left) + 1):
        rows = slice(max(top - ring, 0), min(top + ring + 1, height))
        columns = slice(max(left - ring, 0), min(left + ring + 1, width))
        rise[rows, columns] += 1 / (ring + 1) ** 2
    return rise / np.linalg.norm(rise)


def _window(rng: np.random.Generator, side: int, height: int, width: int) -> Window:
    top, left = rng.integers(0, [height - side + 1, width - side + 1])
    return slice(None), slice(top, top + side), slice(left, left + side)


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return rng.integers(0, 2, shape).astype(np.float32) * 2 - 1


def _within(original: Pictures, change: Floats) -> Pictures:
    """The changed picture, black to white."""
    return np.asarray(np.clip(original + change, 0, 1), np.float32)


def _lengths(change: Floats) -> Floats:
    """[channels, 1, 1]: the l2 norm of every channel."""
    return np.asarray(np.sqrt(np.square(change).sum(axis=(1, 2), keepdims=True)))


def _of_length(change: Floats, length: float) -> Floats:
    return change * np.float32(length / (NOTHING + float(np.linalg.norm(change))))
