"""Elastic transform: the picture is stretched and sheared a little, and every small region once more."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from noise.base import StepFunction, severities
from noise.corruptions.gaussian_blur import gaussian_taps

# 244 times simple numbers; the original remarks that it should have been 224.
SETTINGS = severities(
    "elastic_transform",
    {"strength_px": 488.0, "sigma_px": 170.8, "shift_px": 24.4},
    {"strength_px": 488.0, "sigma_px": 19.52, "shift_px": 48.8},
    {"strength_px": 12.2, "sigma_px": 2.44, "shift_px": 4.88},
    {"strength_px": 17.08, "sigma_px": 2.44, "shift_px": 4.88},
    {"strength_px": 29.28, "sigma_px": 2.44, "shift_px": 4.88},
)

# The last cast would make a level less of a level that interpolation in single precision just misses.
ROUNDING = 1 / 1024
LONG_FILTER = 64


def elastic_transform(*, strength_px: float, sigma_px: float, shift_px: float) -> StepFunction:
    """A random affine map, then a random smooth displacement of every pixel (ImageNet-C).

    Affine: three points around the centre move by ``U(-shift, shift)`` on both axes, ``cv2.warpAffine``, borders
    mirrored at the last pixel. Displacement: ``strength * gaussian(U(-1, 1), sigma)`` on each axis, cut off at 3
    sigma, sampled between pixels as ``map_coordinates(order=1)``, borders mirrored behind the last pixel. All
    constants are in pixels and stay so at every size of picture, so small pictures are bent more.
    """

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        height, width = picture.shape[:2]
        # OpenCV samples four interleaved channels three times as fast as three.
        bent = cv2.warpAffine(
            cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA).astype(np.float32),
            affine(height, width, rng.uniform(-shift_px, shift_px, (3, 2))),
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        draws = rng.random((2, height, width), dtype=np.float32)
        draws -= np.float32(0.5)
        across, down = (smooth(draw, sigma_px) * np.float32(2 * strength_px) for draw in draws)
        across += np.arange(width, dtype=np.float32)
        down += np.arange(height, dtype=np.float32)[:, None]
        moved = cv2.remap(bent, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        levels = np.add(moved, ROUNDING, dtype=np.float32).astype(np.uint8)
        return np.asarray(cv2.cvtColor(levels, cv2.COLOR_RGBA2RGB), np.uint8)

    return apply


def affine(height: int, width: int, shifts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The 2 x 3 matrix that moves three points around the centre by ``shifts`` (x, y)."""
    # The original, written for squares, takes (height, width) for (x, y) here: the same at 224 x 224.
    centre = np.array([width // 2, height // 2])
    reach = min(height, width) // 3
    points = (centre + reach * np.array([[1, 1], [1, -1], [-1, -1]])).astype(np.float32)
    return np.asarray(cv2.getAffineTransform(points, points + shifts.astype(np.float32)), np.float64)


def smooth(draw: npt.NDArray[np.float32], sigma_px: float) -> npt.NDArray[np.float32]:
    """The Gaussian of ``draw``, cut off at 3 sigma, its borders mirrored behind the last pixel."""
    height, width = draw.shape
    taps = gaussian_taps(sigma_px, truncate=3.0)
    # With such borders a symmetric filter of any length only scales the terms of the cosine transform. OpenCV has
    # none for odd sizes. (A product with a matrix would be as fast, but BLAS starts threads of its own.)
    if taps.size < LONG_FILTER or height % 2 or width % 2:
        return np.asarray(cv2.sepFilter2D(draw, -1, taps, taps, borderType=cv2.BORDER_REFLECT), np.float32)
    return np.asarray(cv2.idct(cv2.dct(draw) * gains(height, width, sigma_px)), np.float32)


@lru_cache(maxsize=16)
def gains(height: int, width: int, sigma_px: float) -> npt.NDArray[np.float32]:
    """What the Gaussian leaves of each term of the cosine transform."""
    taps = gaussian_taps(sigma_px, truncate=3.0)
    offsets = np.arange(taps.size) - taps.size // 2
    rows, columns = (
        (taps * np.cos(np.pi / size * np.arange(size)[:, None] * offsets)).sum(axis=1) for size in (height, width)
    )
    return np.outer(rows, columns).astype(np.float32)
