"""Budgets and the contract of attacks. Nothing here attacks, and nothing needs torch.

Attacked pictures are float32 [N, 3, H, W], RGB in [0, 1], at the size of the model's input: behind decode, resize and
crop, before normalise. An epsilon is in these units too, so that 2/255 is two grey levels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from noise.base import NoiseError

Pictures = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

LINF, L2, L1 = "linf", "l2", "l1"
NORMS = (LINF, L2, L1)

# The float32 of a picture at the edge of its budget is off by as much.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Budget:
    """How far an attacked picture may be from the original.

    Args:
        norm: of `NORMS`, over all values of a picture.
        epsilon: the greatest distance, for pictures in [0, 1].
    """

    norm: str
    epsilon: float

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise NoiseError(f"a budget's norm must be one of {', '.join(NORMS)}; got {self.norm!r}")
        if not math.isfinite(self.epsilon) or self.epsilon <= 0:
            raise NoiseError(f"epsilon must be above 0, in units of pictures from 0 to 1; got {self.epsilon:g}")
        if self.norm == LINF and self.epsilon > 1:
            raise NoiseError(
                f"epsilon {self.epsilon:g} is more than black to white: pictures are from 0 to 1, so "
                f"{self.epsilon:g} grey levels are written {self.epsilon:g}/255"
            )

    @property
    def name(self) -> str:
        """As `budget_from_text` reads it: ``linf:2/255``, ``l2:0.5``."""
        levels = self.epsilon * 255
        whole = self.norm == LINF and abs(levels * 2 - round(levels * 2)) < ROUNDING
        return f"{self.norm}:{levels:g}/255" if whole else f"{self.norm}:{self.epsilon:g}"

    @property
    def below_a_level(self) -> bool:
        """Whether no 8-bit picture but the original lies within: what was found cannot be delivered as a picture."""
        return self.epsilon * 255 < 1 - ROUNDING

    def distance(self, pictures: Pictures, originals: Pictures) -> npt.NDArray[np.float64]:
        """[N]: the norm of the difference of every picture."""
        difference = (pictures.astype(np.float64) - originals.astype(np.float64)).reshape(len(pictures), -1)
        return np.asarray(np.linalg.norm(difference, ord={LINF: np.inf, L2: 2, L1: 1}[self.norm], axis=1))

    def holds(self, pictures: Pictures, originals: Pictures) -> npt.NDArray[np.bool_]:
        """[N]: whether every picture is in [0, 1] and within the budget, to rounding."""
        values = pictures.reshape(len(pictures), -1)
        inside = (values.min(axis=1) >= 0) & (values.max(axis=1) <= 1)
        return np.asarray(inside & (self.distance(pictures, originals) <= self.epsilon * (1 + ROUNDING) + ROUNDING))


def budget_from_text(text: str) -> Budget:
    """``2/255`` or ``linf:2/255``, ``l2:0.5``, ``l1:100`` become a budget.

    Raises:
        NoiseError: it is none of these, or out of range.
    """
    norm, _, amount = text.rpartition(":")
    if not re.fullmatch(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?(/[0-9]+)?", amount.strip(), re.IGNORECASE):
        raise NoiseError(f"a budget is written [NORM:]EPSILON, such as 2/255, linf:4/255 or l2:0.5; got {text!r}")
    try:
        top, _, bottom = amount.partition("/")
        epsilon = float(Fraction(top.strip()) / Fraction(bottom.strip() or "1"))
    except (ValueError, ZeroDivisionError) as error:
        raise NoiseError(f"the epsilon of a budget must be a number or a fraction; got {amount!r}") from error
    return Budget(norm.strip() or LINF, epsilon)


class Attack(Protocol):
    """What a row of `noise.adversarial.ATTACKS` makes: one attack with its budget and parameters."""

    def __call__(self, model: Any, pictures: Pictures, labels: Labels, rngs: Sequence[np.random.Generator]) -> Pictures:
        """Attack every picture.

        Args:
            model: for `GRADIENT` a function of torch, float32 [n, 3, H, W] in [0, 1] -> logits [n, classes],
                through which gradients flow. For `SCORES` and `DECISION` a `noise.adversarial.ledger.Ledger`.
            pictures: that the model is to misread.
            labels: [N], their true classes.
            rngs: one generator for each picture: what is drawn for it depends on nothing else.

        Returns:
            For each picture one within the budget: misread where the attack found such a one, else its best attempt.
        """


@runtime_checkable
class RefiningAttack(Attack, Protocol):
    """An attack that also goes on from what another has made, such as a picture that fools a twin alone."""

    def refine(
        self, model: Any, pictures: Pictures, labels: Labels, starts: Pictures, rngs: Sequence[np.random.Generator]
    ) -> Pictures:
        """As the call, beginning at ``starts``: for each picture one that is within the budget already.

        Raises:
            NoiseError: a start is not within the budget.
        """


def pictures_from_levels(levels: npt.NDArray[np.uint8]) -> Pictures:
    """8-bit pictures of any shape as float32 in [0, 1]."""
    return np.asarray(levels / np.float32(255), np.float32)


def levels_from_attacked(attacked: Pictures, originals: npt.NDArray[np.uint8], budget: Budget) -> npt.NDArray[np.uint8]:
    """Attacked pictures as 8-bit pictures within the same budget: what can be given to a device.

    Values are rounded to the nearest level. Where that leaves the budget, every change is rounded towards the
    original instead, which shortens each of them.

    Args:
        attacked: float32 [N, 3, H, W] in [0, 1].
        originals: uint8 [N, 3, H, W].
    """
    levels = attacked.astype(np.float64) * 255
    nearest = np.clip(np.rint(levels), 0, 255)
    shorter = originals + np.trunc(levels - originals + np.sign(levels - originals) * ROUNDING * 255)
    start = pictures_from_levels(originals)
    within = budget.holds((nearest / 255).astype(np.float32), start)
    chosen = np.where(within[:, None, None, None], nearest, np.clip(shorter, 0, 255))
    return np.asarray(chosen, np.uint8)
