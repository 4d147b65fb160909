"""Defocus blur: convolution with a disk, the image of a point through a lens out of focus."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from noise.base import StepFunction, severities

SETTINGS = severities(
    "defocus_blur",
    {"radius": 3, "alias_sigma": 0.1},
    {"radius": 4, "alias_sigma": 0.5},
    {"radius": 6, "alias_sigma": 0.5},
    {"radius": 8, "alias_sigma": 0.5},
    {"radius": 10, "alias_sigma": 0.5},
)

NOTHING = 1e-9  # less than any sum in single precision notices


def defocus_blur(*, radius: int, alias_sigma: float) -> StepFunction:
    """``cv2.filter2D`` with an anti-aliased disk of ``radius`` pixels, borders reflected (ImageNet-C)."""
    kernel = disk(radius, alias_sigma)

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        del rng
        blurred = cv2.filter2D(picture.astype(np.float32), -1, kernel)
        return np.clip(blurred, 0, 255).astype(np.uint8)

    return apply


def disk(radius: int, alias_sigma: float) -> npt.NDArray[np.float32]:
    """A disk that sums to one, its edge softened by a Gaussian of ``alias_sigma`` pixels.

    ImageNet-C draws every radius up to 8 on the same 17 x 17 grid and softens larger disks with a 5 x 5
    Gaussian instead of 3 x 3.
    """
    reach = max(8, radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    sharp = (x**2 + y**2 <= radius**2).astype(np.float32)
    sharp /= sharp.sum()
    width = 3 if radius <= 8 else 5
    soft: npt.NDArray[np.float32] = cv2.GaussianBlur(sharp, (width, width), sigmaX=alias_sigma)
    # OpenCV takes a kernel of at most 11 x 11 tap by tap, and far faster than a larger one.
    margin = int((soft.max(axis=0) < NOTHING).argmin())
    return np.ascontiguousarray(soft[margin : soft.shape[0] - margin, margin : soft.shape[1] - margin])
