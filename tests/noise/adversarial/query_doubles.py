"""Doubles for attacks by queries: models in a few lines of NumPy that note what they were asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from noise.adversarial.base import Labels, Pictures
from noise.adversarial.ledger import Floats


class Linear:
    """Scores are a linear function of the picture; notes every batch that it was asked.

    Args:
        weights: [classes, 3, H, W].
    """

    def __init__(self, weights: Floats) -> None:
        self.weights = weights.astype(np.float32)
        self.batches: list[Pictures] = []

    def __call__(self, pictures: Pictures) -> Floats:
        self.batches.append(pictures.copy())
        # One dot product a row, so that the answer to a row has the same bits in every batch.
        flat = self.weights.reshape(len(self.weights), -1)
        return np.stack([flat @ picture.ravel() for picture in pictures])

    @property
    def asked(self) -> list[bytes]:
        """Every row that it was asked."""
        return [row.tobytes() for batch in self.batches for row in batch]


class Planted:
    """Calls every picture class 0, but those class 1 whose red value in the middle is above a threshold.

    An attack must find that value within its budget (Zimmermann et al. 2022: an adversarial picture exists by design).
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, pictures: Pictures) -> Floats:
        height, width = pictures.shape[2:]
        above = pictures[:, 0, height // 2, width // 2] - np.float32(self.threshold)
        return np.stack([-above, above], axis=1)


class TopClass:
    """A model that gives its top class and no scores."""

    def __init__(self, scored: Linear | Planted) -> None:
        self.scored = scored

    def __call__(self, pictures: Pictures) -> npt.NDArray[np.int64]:
        return np.asarray(self.scored(pictures).argmax(axis=1))


def linear(seed: int, side: int = 8, classes: int = 3) -> Linear:
    return Linear(np.random.default_rng(seed).normal(size=(classes, 3, side, side)).astype(np.float32))


def pictures_of(model: Linear, number: int, seed: int = 0) -> tuple[Pictures, Labels]:
    """Grey noise, and the classes that the model gives it."""
    side = model.weights.shape[-1]
    pictures = np.random.default_rng(seed).uniform(0.3, 0.7, (number, 3, side, side)).astype(np.float32)
    labels = model(pictures).argmax(axis=1)
    model.batches.clear()
    return pictures, labels


def generators(number: int, seed: int = 0) -> Sequence[np.random.Generator]:
    return [np.random.default_rng([seed, index]) for index in range(number)]
