"""Pixelate: a picture of too few pixels, shown large."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from noise.base import StepFunction, severities

SETTINGS = severities("pixelate", {"scale": 0.6}, {"scale": 0.5}, {"scale": 0.4}, {"scale": 0.3}, {"scale": 0.25})


def pixelate(*, scale: float) -> StepFunction:
    """Pillow's resize to ``int(size * scale)`` and back, both with the box filter (ImageNet-C).

    The blocks are ``1 / scale`` pixels wide at every size of picture.
    """

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        del rng
        height, width = picture.shape[:2]
        small_height, small_width = int(height * scale), int(width * scale)
        small = Image.fromarray(picture).resize((small_width, small_height), Image.Resampling.BOX)
        # Four bytes a pixel are taken as one number, several times as fast as three.
        pixels = np.frombuffer(small.tobytes("raw", "RGBX"), np.uint32).reshape(small_height, small_width)
        large = pixels.take(nearest(small_width, width), axis=1).take(nearest(small_height, height), axis=0)
        return np.asarray(cv2.cvtColor(large.view(np.uint8).reshape(height, width, 4), cv2.COLOR_RGBA2RGB), np.uint8)

    return apply


def nearest(small: int, large: int) -> npt.NDArray[np.intp]:
    """For each of ``large`` pixels the one of ``small`` pixels that Pillow's box filter takes when enlarging.

    A box of one source pixel's width holds one centre only, so nothing is averaged. The rounding of the
    products is Pillow's too: it decides where a centre falls on a border.
    """
    return np.asarray(np.floor((np.arange(large) + 0.5) * (small / large)), np.intp)
