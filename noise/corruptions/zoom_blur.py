"""Zoom blur: the lens zooms, or the camera closes in, while the shutter is open."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from noise.base import StepFunction, severities

SETTINGS = severities(
    "zoom_blur",
    {"end": 1.11, "step": 0.01},
    {"end": 1.16, "step": 0.01},
    {"end": 1.21, "step": 0.02},
    {"end": 1.26, "step": 0.02},
    {"end": 1.31, "step": 0.03},
)

# The sum in single precision may fall short of a whole level, of which the truncation would make a level less.
ROUNDING = 1 / 1024


def zoom_blur(*, end: float, step: float) -> StepFunction:
    """``(x + sum of the zooms) / (zooms + 1)`` with the zoom factors ``np.arange(1, end, step)`` (ImageNet-C).

    A zoom is ``scipy.ndimage.zoom(order=1)`` of the middle ``ceil(size / factor)`` rows and columns, and of the
    result the middle rows and columns: one bilinear sampling on a grid. Zooms are relative to the picture, so
    they are the same at every size. The original is written for squares and sizes both axes by the height;
    here each axis has its own. OpenCV samples exactly from version 5 on, and at 32nds of a pixel before.
    """
    # ``arange`` decides by rounding whether the last factor belongs: 12, 16, 11, 13 and 11 of them. The first
    # factor is one, which leaves the picture as it is.
    factors = [float(factor) for factor in np.arange(1, end, step)[1:]]

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        del rng
        height, width = picture.shape[:2]
        # OpenCV samples four interleaved channels three times as fast as three.
        x = cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA).astype(np.float32)
        total = 2 * x
        zoomed = np.empty_like(x)
        for factor in factors:
            (down, top), (across, left) = grid(height, factor), grid(width, factor)
            matrix = np.array([[across, 0, left], [0, down, top]])
            cv2.warpAffine(
                x,
                matrix,
                (width, height),
                dst=zoomed,
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            total += zoomed
        total *= np.float32(1 / (len(factors) + 2))
        total += np.float32(ROUNDING)
        return np.asarray(cv2.cvtColor(total.astype(np.uint8), cv2.COLOR_RGBA2RGB), np.uint8)

    return apply


def grid(size: int, factor: float) -> tuple[float, float]:
    """(spacing, first): pixel i of the zoomed picture samples ``first + spacing * i`` along an axis of ``size``."""
    part = math.ceil(size / factor)
    enlarged = round(part * factor)
    trim = (enlarged - size) // 2
    spacing = (part - 1) / (enlarged - 1)
    return spacing, (size - part) // 2 + spacing * trim
