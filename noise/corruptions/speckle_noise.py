"""Speckle noise: normal noise that grows with the value it falls on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from noise.base import StepFunction, severities
from noise.corruptions.draws import standard_normal

SETTINGS = severities(
    "speckle_noise", {"sigma": 0.15}, {"sigma": 0.2}, {"sigma": 0.35}, {"sigma": 0.45}, {"sigma": 0.6}
)


def speckle_noise(*, sigma: float) -> StepFunction:
    """``clip(x + x * N(0, sigma))`` with x on [0, 1] (ImageNet-C). Works per value, so at any size."""

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        noisy = standard_normal(rng, picture.shape)
        noisy *= np.float32(sigma)
        noisy += 1
        noisy *= picture
        return np.clip(noisy, 0, 255, out=noisy).astype(np.uint8)

    return apply
