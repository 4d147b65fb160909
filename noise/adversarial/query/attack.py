"""From the search for one picture to an attack on many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from noise.adversarial.base import Labels, Pictures
from noise.adversarial.ledger import Ledger, Search, Terms
from noise.base import NoiseError


class NewSearch(Protocol):
    """Begins the search for one picture."""

    def __call__(self, original: Pictures, start: Pictures | None, rng: np.random.Generator) -> Search:
        """The search around ``original``, float32 [3, H, W], from ``start`` where there is one."""


@dataclass(frozen=True)
class QueryAttack:
    """An attack that asks a ledger: `noise.adversarial.base.RefiningAttack`.

    Args:
        terms: the budgets, and what it needs of the model.
        new_search: begins the search for a picture.
    """

    terms: Terms
    new_search: NewSearch

    def __call__(
        self, model: Ledger, pictures: Pictures, labels: Labels, rngs: Sequence[np.random.Generator]
    ) -> Pictures:
        """Attack every picture from where the attack itself begins."""
        searches = [self.new_search(picture, None, rng) for picture, rng in zip(pictures, rngs, strict=True)]
        return model.search(self.terms, pictures, labels, searches)

    def refine(
        self,
        model: Ledger,
        pictures: Pictures,
        labels: Labels,
        starts: Pictures,
        rngs: Sequence[np.random.Generator],
    ) -> Pictures:
        """Attack every picture from where another attack has ended."""
        holds = self.terms.budget.holds(starts, pictures)
        if not holds.all():
            raise NoiseError(
                f"{(~holds).sum()} of {len(pictures)} starting pictures are not within {self.terms.budget.name}; "
                "give those that were made with this budget or a smaller one"
            )
        searches = [
            self.new_search(picture, start, rng) for picture, start, rng in zip(pictures, starts, rngs, strict=True)
        ]
        return model.search(self.terms, pictures, labels, searches)
