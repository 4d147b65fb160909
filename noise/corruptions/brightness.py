"""Brightness: the HSV value of every pixel is raised."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from noise.base import StepFunction, severities

SETTINGS = severities("brightness", {"add": 0.1}, {"add": 0.2}, {"add": 0.3}, {"add": 0.4}, {"add": 0.5})


def brightness(*, add: float) -> StepFunction:
    """``V := clip(V + add, 0, 1)`` in HSV, hue and saturation kept (ImageNet-C).

    With hue and saturation fixed, R, G and B are proportional to V = max(R, G, B), so no colour conversion is
    needed: all three are multiplied by V' / V. A black pixel has no hue and becomes the grey V'.
    """
    value = np.arange(256, dtype=np.float32)
    raised = np.minimum(value + np.float32(255 * add), np.float32(255))
    gain = np.divide(raised, value, out=np.zeros_like(value), where=value > 0)

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        del rng
        planes = cv2.split(picture)
        brightest = cv2.max(cv2.max(planes[0], planes[1]), planes[2])
        factor = cv2.LUT(brightest, gain)
        # The gain may carry the brightest channel a rounding error above 255.
        bright = cv2.merge([np.minimum(plane * factor, 255).astype(np.uint8) for plane in planes])
        if not brightest.all():
            bright[brightest == 0] = int(raised[0])
        return np.asarray(bright, np.uint8)

    return apply
