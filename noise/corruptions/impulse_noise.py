"""Impulse noise: single channel values turn to black or white."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from noise.base import StepFunction, severities
from noise.corruptions.draws import bits16

SETTINGS = severities(
    "impulse_noise", {"amount": 0.03}, {"amount": 0.06}, {"amount": 0.09}, {"amount": 0.17}, {"amount": 0.27}
)


def impulse_noise(*, amount: float) -> StepFunction:
    """Each value is replaced with probability ``amount``, by 0 or 255 with equal chances.

    The distribution of skimage's ``random_noise(mode="s&p")``, which ImageNet-C calls; one uniform draw of 16
    bits decides both whether and to what, where skimage takes two. Works per value, so at any size.
    """
    share = round(amount / 2 * (1 << 16))

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        draw = bits16(rng, picture.shape)
        noisy = picture * (draw >= share)
        noisy |= np.uint8(255) * (draw >= (1 << 16) - share)
        return noisy

    return apply
