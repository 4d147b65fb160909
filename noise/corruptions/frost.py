"""Frost: ice crystals grow over the lens."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from noise.base import StepFunction, severities
from noise.corruptions.overlays import published

WEIGHTS = (
    {"picture_weight": 1.0, "frost_weight": 0.4},
    {"picture_weight": 0.8, "frost_weight": 0.6},
    {"picture_weight": 0.7, "frost_weight": 0.7},
    {"picture_weight": 0.65, "frost_weight": 0.7},
    {"picture_weight": 0.6, "frost_weight": 0.75},
)
SETTINGS = severities("frost", *WEIGHTS)

# Sums in single precision may fall short of a whole level, of which the truncation would make a level less.
ROUNDING = 1 / 1024


def frost(*, picture_weight: float, frost_weight: float) -> StepFunction:
    """``clip(picture_weight * x + frost_weight * overlay)``, a random part of a random overlay (ImageNet-C).

    An overlay that is not larger than the picture is enlarged until it is, by one pixel.

    Raises:
        MissingData: the overlays of ImageNet-C are not on this machine.
    """
    overlays = published()

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        height, width = picture.shape[:2]
        overlay = enlarged(overlays[int(rng.integers(len(overlays)))], height + 1, width + 1)
        top = int(rng.integers(overlay.shape[0] - height))
        left = int(rng.integers(overlay.shape[1] - width))
        return covered(picture, overlay[top : top + height, left : left + width], picture_weight, frost_weight)

    return apply


def enlarged(overlay: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """An overlay of at least ``height x width``, its aspect ratio kept."""
    factor = max(height / overlay.shape[0], width / overlay.shape[1])
    if factor <= 1:
        return overlay
    size = (max(width, round(factor * overlay.shape[1])), max(height, round(factor * overlay.shape[0])))
    return np.asarray(cv2.resize(overlay, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def covered(
    picture: npt.NDArray[np.uint8], ice: npt.NDArray[np.uint8], picture_weight: float, frost_weight: float
) -> npt.NDArray[np.uint8]:
    """The weighted sum of a picture and ice of its size, clipped and truncated."""
    total = cv2.addWeighted(picture, picture_weight, ice, frost_weight, ROUNDING, dtype=cv2.CV_32F)
    return np.minimum(total, 255).astype(np.uint8)
