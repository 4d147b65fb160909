"""Saturate: colours fade, or are driven to the limit."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from noise.base import StepFunction, severities

SETTINGS = severities(
    "saturate",
    {"gain": 0.3, "add": 0.0},
    {"gain": 0.1, "add": 0.0},
    {"gain": 2.0, "add": 0.0},
    {"gain": 5.0, "add": 0.1},
    {"gain": 20.0, "add": 0.2},
)


def saturate(*, gain: float, add: float) -> StepFunction:
    """``S := clip(S * gain + add, 0, 1)`` in HSV as skimage's ``rgb2hsv`` has it, hue and value kept (ImageNet-C).

    With hue and value V fixed, every channel lies at V minus a part of S, so no colour conversion is needed:
    the distances from V are multiplied by S' / S, which depends on the largest and the smallest channel only.
    A grey pixel has S = 0 and, in skimage, the hue of red: ``add`` turns it red. Works per pixel, so at any size.
    """
    largest, smallest = np.mgrid[0:256, 0:256].astype(np.float32)
    saturation = np.divide(largest - smallest, largest, out=np.zeros_like(largest), where=largest > smallest)
    wanted = np.clip(saturation * gain + add, 0, 1)
    ratio = np.divide(wanted, saturation, out=np.zeros_like(wanted), where=saturation > 0).astype(np.float32).ravel()
    red = np.repeat(np.arange(256, dtype=np.float32)[:, None], 3, axis=1)
    red[:, 1:] *= np.float32(1 - np.clip(add, 0, 1))

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        del rng
        planes = cv2.split(picture)
        value = cv2.max(cv2.max(planes[0], planes[1]), planes[2])
        least = cv2.min(cv2.min(planes[0], planes[1]), planes[2])
        factor = ratio.take(256 * value.astype(np.int32) + least)
        result = cv2.merge([(value - (value - plane) * factor).astype(np.uint8) for plane in planes])
        if add > 0:
            grey = value == least
            result[grey] = red[value[grey]].astype(np.uint8)
        return np.asarray(result, np.uint8)

    return apply
