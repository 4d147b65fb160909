"""Crop: the part of the picture that the network sees."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from noise.base import NoiseError, StepFunction, check_size


def centre(*, size: int) -> StepFunction:
    """``size x size`` pixels from the middle, offsets rounded as torchvision's ``CenterCrop`` does.

    Raises (when applied):
        NoiseError: the picture is smaller than the crop. Padding would invent pixels.
    """
    check_size("crop", size)

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        del rng
        height, width = picture.shape[:2]
        if min(height, width) < size:
            raise NoiseError(f"a {size} x {size} crop does not fit a picture of {height} x {width}")
        top, left = round((height - size) / 2), round((width - size) / 2)
        return picture[top : top + size, left : left + size]

    return apply
