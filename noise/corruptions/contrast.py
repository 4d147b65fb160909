"""Contrast: every channel is drawn towards its own mean."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from noise.base import StepFunction, severities

SETTINGS = severities("contrast", {"gain": 0.4}, {"gain": 0.3}, {"gain": 0.2}, {"gain": 0.1}, {"gain": 0.05})


def contrast(*, gain: float) -> StepFunction:
    """``clip((x - mean) * gain + mean)`` with x on [0, 1] and one mean per channel over the picture (ImageNet-C).

    A channel has only 256 values, so the formula is evaluated once per value. Pictures of any size: nothing
    is counted in pixels.
    """
    value = np.arange(256)[:, None] / 255.0

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        del rng
        mean = np.array(cv2.mean(picture)[:3]) / 255.0
        table = (np.clip((value - mean) * gain + mean, 0, 1) * 255).astype(np.uint8)
        return np.asarray(cv2.LUT(picture, table[:, None]), np.uint8)

    return apply
