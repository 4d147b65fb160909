"""Gaussian noise: independent normal noise on every channel of every pixel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from noise.base import StepFunction, severities
from noise.corruptions.draws import standard_normal

SETTINGS = severities(
    "gaussian_noise", {"sigma": 0.08}, {"sigma": 0.12}, {"sigma": 0.18}, {"sigma": 0.26}, {"sigma": 0.38}
)


def gaussian_noise(*, sigma: float) -> StepFunction:
    """``clip(x + N(0, sigma))`` with x on [0, 1] (ImageNet-C)."""
    sigma_255 = np.float32(255 * sigma)

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        noisy = standard_normal(rng, picture.shape)
        noisy *= sigma_255
        noisy += picture
        return np.clip(noisy, 0, 255, out=noisy).astype(np.uint8)

    return apply
