"""SPSA: gradients estimated from pairs of answers, and descended.

Uesato, O'Donoghue, van den Oord, Kohli 2018 (arXiv 1802.05666), section 4.2: Rademacher directions, Adam, margin loss.
Differences: probes are projected into the budget, so that each is an attempt too, and the picture itself is asked about
behind every step. NES (Ilyas et al. 2018) differs by Gaussian directions, which take seven times as long to draw, and
by the sign of a momentum instead of Adam.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from noise.adversarial import SCORES
from noise.adversarial.base import LINF, Budget, Pictures
from noise.adversarial.ledger import Floats, Search, Terms
from noise.adversarial.query.attack import QueryAttack
from noise.base import NoiseError

# Adam's constants (Kingma and Ba 2015), as in the paper.
DECAY_MEAN, DECAY_SQUARE, NOTHING = 0.9, 0.999, 1e-8


def spsa(
    budget: Budget, *, queries: int = 5000, pairs: int = 25, probe: float = 0.01, step: float = 0.01
) -> QueryAttack:
    """SPSA in l-inf.

    Args:
        budget: in `LINF`.
        queries: forward passes for each picture, the clean one included; a step takes ``2 * pairs + 1``.
        pairs: random directions that a gradient is estimated from, each asked about both ways.
        probe: how far each value of a question is from the picture, for pictures in [0, 1].
        step: Adam's step for pictures in [0, 1]. Neither is ever more than epsilon.
    """
    if budget.norm != LINF:
        raise NoiseError(f"spsa is bounded in {LINF}; got {budget.name}")
    if pairs < 1 or not probe > 0 or not step > 0:
        raise NoiseError(f"spsa needs pairs from 1, and probe and step above 0; got {pairs}, {probe:g} and {step:g}")
    sizes = _Sizes(budget.epsilon, pairs, min(probe, budget.epsilon), min(step, budget.epsilon))
    return QueryAttack(Terms(budget, queries, SCORES), partial(_search, sizes=sizes))


@dataclass(frozen=True)
class _Sizes:
    """The parameters of `spsa`."""

    epsilon: float
    pairs: int
    probe: float
    step: float


def _search(original: Pictures, start: Pictures | None, rng: np.random.Generator, *, sizes: _Sizes) -> Search:
    """Algorithm 1, one step after the other."""
    reach = np.float32(sizes.epsilon)
    bounds = np.maximum(original - reach, 0), np.minimum(original + reach, 1)
    current = original if start is None else start
    if start is not None:
        yield [current]
    mean, square = np.zeros_like(original), np.zeros_like(original)
    steps = 0
    while True:
        steps += 1
        # As bits, since many pictures are attacked abreast.
        directions = [np.frombuffer(rng.bytes(-(-original.size // 8)), np.uint8) for _ in range(sizes.pairs)]
        margins = yield _probes(current, directions, sizes.probe, bounds)
        slopes = (margins[0::2] - margins[1::2]) / np.float32(2 * sizes.probe * sizes.pairs)
        gradient = np.zeros_like(original)
        for bits, slope in zip(directions, slopes, strict=True):
            gradient += slope * _signs(bits, original.shape)
        mean = DECAY_MEAN * mean + (1 - DECAY_MEAN) * gradient
        square = DECAY_SQUARE * square + (1 - DECAY_SQUARE) * gradient**2
        size = np.sqrt(square / (1 - DECAY_SQUARE**steps)) + NOTHING
        moved = current - np.float32(sizes.step / (1 - DECAY_MEAN**steps)) * mean / size
        current = np.clip(moved, *bounds).astype(np.float32)
        yield [current]


def _probes(
    current: Pictures, directions: Sequence[npt.NDArray[np.uint8]], probe: float, bounds: tuple[Floats, Floats]
) -> Iterator[Pictures]:
    """Both ends of every direction, within the budget."""
    for bits in directions:
        change = np.float32(probe) * _signs(bits, current.shape)
        yield np.clip(current + change, *bounds)
        yield np.clip(current - change, *bounds)


def _signs(bits: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> Floats:
    """Bits become 1 and -1."""
    ones = np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape)
    return ones.astype(np.float32) * 2 - 1
