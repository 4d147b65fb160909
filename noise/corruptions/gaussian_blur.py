"""Gaussian blur: what a soft lens or a strong denoiser leaves."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from noise.base import StepFunction, severities

SETTINGS = severities("gaussian_blur", *({"sigma_px": sigma} for sigma in (1, 2, 3, 4, 6)))


# Sums in single precision fall short of a whole level where the original's double precision does not, and the
# truncation would make a level of it: a thousandth of a level keeps flat areas what they are.
ROUNDING = 1 / 1024


def gaussian_blur(*, sigma_px: float) -> StepFunction:
    """skimage's ``gaussian(x, sigma)`` per channel: cut off at 4 sigma, border pixels repeated (ImageNet-C).

    ``sigma_px`` is in pixels and stays so at every size of picture.
    """
    taps = gaussian_taps(sigma_px, truncate=4.0)

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        del rng
        return blurred(picture, taps)

    return apply


def blurred(picture: npt.NDArray[np.uint8], taps: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """A picture filtered with ``taps`` along both axes, border pixels repeated, truncated to uint8."""
    soft = cv2.sepFilter2D(picture, cv2.CV_32F, taps, taps, delta=ROUNDING, borderType=cv2.BORDER_REPLICATE)
    return np.clip(soft, 0, 255, out=soft).astype(np.uint8)


def gaussian_taps(sigma_px: float, truncate: float) -> npt.NDArray[np.float64]:
    """SciPy's sampled Gaussian of ``2 * int(truncate * sigma + 0.5) + 1`` taps, which sum to one."""
    radius = int(truncate * sigma_px + 0.5)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_px) ** 2)
    return np.asarray(taps / taps.sum())
