"""Spatter: drops of water or specks of mud on the lens."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from noise.base import NoiseError, StepFunction, severities
from noise.corruptions.draws import standard_normal
from noise.corruptions.gaussian_blur import gaussian_taps

SETTINGS = severities(
    "spatter",
    {"mean": 0.65, "deviation": 0.3, "sigma_px": 4, "threshold": 0.69, "opacity": 0.6},
    {"mean": 0.65, "deviation": 0.3, "sigma_px": 3, "threshold": 0.68, "opacity": 0.6},
    {"mean": 0.65, "deviation": 0.3, "sigma_px": 2, "threshold": 0.68, "opacity": 0.5},
    {"mean": 0.65, "deviation": 0.3, "sigma_px": 1, "threshold": 0.65, "edge_sigma_px": 1.5},
    {"mean": 0.67, "deviation": 0.4, "sigma_px": 1, "threshold": 0.65, "edge_sigma_px": 1.5},
)

WATER = np.array([175, 238, 238], np.float32)  # pale turquoise
MUD = np.array([63, 42, 20], np.float32)
EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)
THINNEST_MUD = 0.8


def spatter(
    *,
    mean: float,
    deviation: float,
    sigma_px: float,
    threshold: float,
    opacity: float | None = None,
    edge_sigma_px: float | None = None,
) -> StepFunction:
    """Where ``gaussian(N(mean, deviation), sigma)`` is above ``threshold``, there is liquid (ImageNet-C).

    With ``opacity`` it is water, brighter inside a drop than at its edges; with ``edge_sigma_px`` it is mud with
    soft edges. The sigmas are in pixels and stay so at every size of picture: drops keep their size.
    """
    if (opacity is None) == (edge_sigma_px is None):
        raise NoiseError(
            f"spatter is water with an opacity or mud with an edge_sigma_px; "
            f"got opacity {opacity} and edge_sigma_px {edge_sigma_px}"
        )
    taps = gaussian_taps(sigma_px, truncate=4.0)
    edge = None if edge_sigma_px is None else gaussian_taps(edge_sigma_px, truncate=4.0)

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        layer = standard_normal(rng, picture.shape[:2])
        layer *= np.float32(deviation)
        layer += np.float32(mean)
        liquid = cv2.sepFilter2D(layer, -1, taps, taps, borderType=cv2.BORDER_REPLICATE)
        planes = cv2.split(picture)
        if edge is not None:
            mask = (liquid > threshold).astype(np.float32)
            cover = cv2.sepFilter2D(mask, -1, edge, edge, borderType=cv2.BORDER_REPLICATE)
            cover[cover < THINNEST_MUD] = 0
            wet = [plane + (colour - plane) * cover for plane, colour in zip(planes, MUD, strict=True)]
        else:
            liquid[liquid < threshold] = 0
            shine = water((liquid * 255).astype(np.uint8)) * np.float32(opacity or 0)
            wet = [plane + colour * shine for plane, colour in zip(planes, WATER, strict=True)]
        return np.asarray(cv2.merge([np.minimum(plane, 255).astype(np.uint8) for plane in wet]), np.uint8)

    return apply


def water(liquid: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The light on drops, 0 to 1: their depth times an embossed distance from their edges."""
    distance = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    near = cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8)
    relief = cv2.filter2D(cv2.equalizeHist(near), cv2.CV_8U, EMBOSS)
    light = np.multiply(liquid, cv2.blur(relief, (3, 3)), dtype=np.float32)
    brightest = float(light.max())
    # A small picture may be without a drop; the original divides zero by zero there.
    return np.asarray(light / (brightest or 1.0), np.float32)
