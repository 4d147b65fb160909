"""Glass blur: frosted glass or ice, through which every pixel is seen somewhere nearby."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from noise.base import StepFunction, severities
from noise.corruptions.gaussian_blur import blurred, gaussian_taps

SETTINGS = severities(
    "glass_blur",
    {"sigma_px": 0.7, "reach_px": 1, "rounds": 2},
    {"sigma_px": 0.9, "reach_px": 2, "rounds": 1},
    {"sigma_px": 1.0, "reach_px": 2, "rounds": 3},
    {"sigma_px": 1.1, "reach_px": 3, "rounds": 2},
    {"sigma_px": 1.5, "reach_px": 4, "rounds": 2},
)


def glass_blur(*, sigma_px: float, reach_px: int, rounds: int) -> StepFunction:
    """A Gaussian blur, ``rounds`` of pixels copied from nearby, and the blur once more (ImageNet-C).

    The original means to swap two pixels, but swaps views of one array, which copies the one nearby over the other.
    It goes from the lower right to the upper left, so a pixel may receive what was itself just copied. Offsets
    are ``randint(-reach, reach)``, which never gives ``+reach``. All constants are in pixels and stay so at
    every size of picture.
    """
    taps = gaussian_taps(sigma_px, truncate=4.0)

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        height, width = picture.shape[:2]
        # Four bytes a pixel are copied as one number, several times as fast as three.
        pixels = cv2.cvtColor(blurred(picture, taps), cv2.COLOR_RGB2RGBA).view(np.uint32).ravel()
        for _ in range(rounds):
            pixels = pixels.take(origins(height, width, reach_px, rng))
        moved = cv2.cvtColor(pixels.view(np.uint8).reshape(height, width, 4), cv2.COLOR_RGBA2RGB)
        return blurred(np.asarray(moved, np.uint8), taps)

    return apply


def origins(height: int, width: int, reach_px: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Where every pixel of a picture comes from in one round, as indices of the flattened picture.

    The round copies to one pixel after another, from the largest index to the smallest. A nearby pixel with a
    larger index has had its turn: what it holds by then comes from its own origin. Such links form chains, and
    following all of them at once, in steps that double, takes a handful of passes.
    """
    side = 2 * reach_px
    region = np.s_[reach_px + 1 : height - reach_px + 1, reach_px + 1 : width - reach_px + 1]
    draw = rng.integers(0, side * side, (height - side, width - side), dtype=np.uint8)
    moves = np.add.outer(width * np.arange(-reach_px, reach_px), np.arange(-reach_px, reach_px)).ravel()
    index = np.arange(height * width)
    inside = np.zeros((height, width), bool)
    inside[region] = True
    nearby = index.copy()
    nearby.reshape(height, width)[region] += moves.take(draw)
    chained = np.flatnonzero(inside.ravel().take(nearby) & (nearby > index))
    link = index
    link[chained] = nearby[chained]
    while chained.size:
        here = link.take(chained)
        further = link.take(here)
        moved = further != here
        chained = chained[moved]
        link[chained] = further[moved]
    return nearby.take(link)
