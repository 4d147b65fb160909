"""Procedural frost: the stand-in where ImageNet-C's photographs of frost are not at hand.

It has a name of its own, so that every number made with it says so: it is never compared with published ones.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from noise.base import StepFunction, severities
from noise.corruptions.draws import standard_normal
from noise.corruptions.fog import plasma
from noise.corruptions.frost import WEIGHTS, covered

SETTINGS = severities("procedural_frost", *WEIGHTS)

CLOUD_DECAY = 1.7
RAREST = 2.8  # one pixel in four hundred starts a needle
NEEDLE_PX = 31
COLD = np.array([[0.82, 0.93, 1.0]], np.float32)  # bluish white


def procedural_frost(*, picture_weight: float, frost_weight: float) -> StepFunction:
    """Frost's weighted sum, with ice drawn from noise: needles along six directions in patches of a fractal.

    The needles keep their size in pixels at every size of picture.
    """

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        height, width = picture.shape[:2]
        return covered(picture, ice(height, width, rng), picture_weight, frost_weight)

    return apply


def ice(height: int, width: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """An overlay of ice crystals on black, uint8 [height, width, 3] RGB."""
    side = 1 << (max(height, width) - 1).bit_length()
    patches = plasma(side, CLOUD_DECAY, rng)[:height, :width]
    seeds = (standard_normal(rng, (height, width)) > RAREST).astype(np.float32)
    turn = rng.uniform(0, 60)
    crystals = np.zeros((height, width), np.float32)
    for angle in (turn, turn + 60, turn + 120):
        crystals = np.maximum(crystals, cv2.filter2D(seeds, -1, needle(angle), borderType=cv2.BORDER_REFLECT))
    light = 255 * np.clip(0.6 * crystals * (0.3 + patches) + 0.8 * patches, 0, 1)
    return np.asarray((light[:, :, None] * COLD).astype(np.uint8), np.uint8)


def needle(angle_degrees: float) -> npt.NDArray[np.float32]:
    """A line through the middle of a square, fading towards its ends."""
    reach = NEEDLE_PX // 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    angle = np.deg2rad(angle_degrees)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    return np.asarray(np.exp(-(across**2)) * np.maximum(0, 1 - np.abs(along) / reach), np.float32)
