"""Impulse noise: single channel values turn to black or white."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from noise.base import StepFunction, severities

SETTINGS = severities(
    "impulse_noise", {"amount": 0.03}, {"amount": 0.06}, {"amount": 0.09}, {"amount": 0.17}, {"amount": 0.27}
)


def impulse_noise(*, amount: float) -> StepFunction:
    """Each value is replaced with probability ``amount``, by 0 or 255 with equal chances.

    The distribution of skimage's ``random_noise(mode="s&p")``, which ImageNet-C calls; one uniform draw
    decides both whether and to what, where skimage takes two.
    """
    pepper, salt = np.float32(amount / 2), np.float32(1 - amount / 2)

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        draw = rng.random(picture.shape, dtype=np.float32)
        noisy = picture.copy()
        noisy[draw < pepper] = 0
        noisy[draw >= salt] = 255
        return noisy

    return apply
