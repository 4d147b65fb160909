"""Motion blur: the camera moves while the shutter is open, ever fainter along a straight line."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from noise.base import StepFunction, severities

SETTINGS = severities(
    "motion_blur",
    {"radius_px": 10, "sigma_px": 3},
    {"radius_px": 15, "sigma_px": 5},
    {"radius_px": 15, "sigma_px": 8},
    {"radius_px": 15, "sigma_px": 12},
    {"radius_px": 20, "sigma_px": 15},
)

LARGEST_ANGLE = 45.0
# ImageMagick rounds to 16 bits, where a level is 257, and then cuts down to 8.
ROUNDING = 0.5 / 257
# OpenCV takes a kernel of at most 11 x 11 tap by tap, and a larger one by far slower Fourier transforms.
BLOCK = 11


def motion_blur(*, radius_px: int, sigma_px: float) -> StepFunction:
    """ImageMagick's motion blur at an angle of ``U(-45, 45)`` degrees (ImageNet-C).

    Radius and sigma are in pixels and stay so at every size of picture.
    """

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        angle = rng.uniform(-LARGEST_ANGLE, LARGEST_ANGLE)
        return streaked(picture, radius_px, sigma_px, angle)

    return apply


def streaked(
    picture: npt.NDArray[np.uint8], radius_px: int, sigma_px: float, angle_degrees: float
) -> npt.NDArray[np.uint8]:
    """``MagickMotionBlurImage`` of version 6, for uint8 [H, W] or [H, W, 3].

    A pixel becomes the weighted mean of itself and of ``2 * radius`` pixels behind it on a line; a weight is half
    a Gaussian, places are rounded to whole pixels, border pixels are repeated.
    """
    steps = np.arange(2 * radius_px + 1)
    weights = np.exp(-(steps**2) / (2 * sigma_px**2))
    angle = math.radians(angle_degrees)
    right, down = (np.ceil(steps * part - 0.5).astype(int) for part in (math.cos(angle), math.sin(angle)))
    return np.asarray(_weighted_sum(picture, weights / weights.sum(), down, right), np.uint8)


def _weighted_sum(
    picture: npt.NDArray[np.uint8],
    weights: npt.NDArray[np.float64],
    down: npt.NDArray[np.int_],
    right: npt.NDArray[np.int_],
) -> npt.NDArray[np.uint8]:
    """The sum of ``weights[i]`` times the picture ``down[i]`` and ``right[i]`` pixels from every pixel."""
    height, width = picture.shape[:2]
    top, left = max(0, -int(down.min())), max(0, -int(right.min()))
    bottom, beyond = max(0, int(down.max())) + BLOCK, max(0, int(right.max())) + BLOCK
    wide = cv2.copyMakeBorder(picture, top, bottom, left, beyond, cv2.BORDER_REPLICATE).astype(np.float32)
    total = np.full(picture.shape, ROUNDING, np.float32)
    for first in range(0, weights.size, BLOCK):
        part = slice(first, first + BLOCK)
        y, x = down[part].min(), right[part].min()
        kernel = np.zeros((BLOCK, BLOCK), np.float32)
        np.add.at(kernel, (down[part] - y, right[part] - x), weights[part])  # steps may round to the same place
        block = wide[top + y : top + y + height + BLOCK, left + x : left + x + width + BLOCK]
        total += cv2.filter2D(block, -1, kernel, anchor=(0, 0))[:height, :width]
    return total.astype(np.uint8)
