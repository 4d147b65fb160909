"""Fog: a bright cloud of many scales lies over the picture."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from noise.base import StepFunction, severities

SETTINGS = severities(
    "fog",
    {"thickness": 1.5, "wibble_decay": 2.0},
    {"thickness": 2.0, "wibble_decay": 2.0},
    {"thickness": 2.5, "wibble_decay": 1.7},
    {"thickness": 2.5, "wibble_decay": 1.5},
    {"thickness": 3.0, "wibble_decay": 1.4},
)

FIRST_WIBBLE = 100.0


def fog(*, thickness: float, wibble_decay: float) -> StepFunction:
    """``clip((x + thickness * plasma) * max(x) / (max(x) + thickness))`` with x on [0, 1] (ImageNet-C).

    The plasma is a fractal with the side of the next power of two at or above the longer side of the picture,
    which is 256 at 224, so that the clouds keep their size relative to pictures of other sizes.
    """

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        height, width = picture.shape[:2]
        side = 1 << (max(height, width) - 1).bit_length()
        brightest = float(picture.max()) / 255
        dim = brightest / (brightest + thickness)
        cloud = np.ascontiguousarray(plasma(side, wibble_decay, rng)[:height, :width])
        cloud *= np.float32(255 * thickness * dim)
        foggy = np.multiply(picture, np.float32(dim), dtype=np.float32)
        foggy += cv2.merge([cloud, cloud, cloud])
        # At most the brightest value, so there is nothing to clip.
        return foggy.astype(np.uint8)

    return apply


def plasma(side: int, wibble_decay: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A diamond-square fractal on [0, 1] that repeats at its borders; ``side`` is a power of two.

    A level halves the distance of the points: it draws [3, n, n] offsets, for the middles of squares, of their
    upper sides and of their left sides, and adds each to the mean of four neighbours.
    """
    corner = np.zeros((1, 1), np.float32)
    wibble = FIRST_WIBBLE
    while corner.shape[0] < side:
        count = corner.shape[0]
        # The original draws from [-wibble, wibble] and then multiplies by the wibble once more.
        offset = rng.random((3, count, count), dtype=np.float32)
        offset -= np.float32(0.5)
        offset *= np.float32(2 * wibble * wibble)
        around = cv2.copyMakeBorder(corner, 0, 1, 0, 1, cv2.BORDER_WRAP)
        upper = around[:-1, :-1] + around[:-1, 1:]
        left = around[:-1, :-1] + around[1:, :-1]
        middle = (upper + around[1:, :-1] + around[1:, 1:]) / 4 + offset[0]
        between = cv2.copyMakeBorder(middle, 1, 0, 1, 0, cv2.BORDER_WRAP)
        finer = np.empty((2 * count, 2 * count), np.float32)
        finer[::2, ::2] = corner
        finer[1::2, 1::2] = middle
        finer[::2, 1::2] = (upper + between[1:, 1:] + between[:-1, 1:]) / 4 + offset[1]
        finer[1::2, ::2] = (left + between[1:, 1:] + between[1:, :-1]) / 4 + offset[2]
        corner = finer
        wibble /= wibble_decay
    corner -= corner.min()
    corner /= corner.max()
    return corner
