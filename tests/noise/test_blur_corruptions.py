"""Gaussian blur and zoom blur against SciPy's filters and zoom."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from noise.corruptions.gaussian_blur import gaussian_taps
from tests.noise.reference import colourful, constants, corrupt, every_level, every_size, smooth_scene

IMAGENET_C: dict[str, list[dict[str, float]]] = {
    "gaussian_blur": [{"sigma_px": sigma} for sigma in (1, 2, 3, 4, 6)],
    "zoom_blur": [
        {"end": end, "step": step}
        for end, step in ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
    ],
}


@pytest.mark.parametrize("noise", IMAGENET_C)
def test_constants_are_those_of_imagenet_c(noise: str) -> None:
    assert constants(noise) == IMAGENET_C[noise]


@every_size
@every_level
def test_gaussian_blur_equals_scipys_filter_within_one_level(level: int, size: tuple[int, int]) -> None:
    sigma = IMAGENET_C["gaussian_blur"][level - 1]["sigma_px"]
    picture = colourful(*size)
    blurred = ndimage.gaussian_filter(picture / 255.0, (sigma, sigma, 0), mode="nearest", truncate=4.0)
    difference = corrupt("gaussian_blur", level, picture) - np.floor(np.clip(blurred, 0, 1) * 255)
    assert np.abs(difference).max() <= 1
    assert np.abs(difference.mean()) < 0.02  # single roundings, no tendency


@every_level
def test_gaussian_blur_keeps_flat_areas(level: int) -> None:
    for value in range(0, 256, 5):
        flat = np.full((32, 32, 3), value, np.uint8)
        assert np.array_equal(corrupt("gaussian_blur", level, flat), flat)


@every_level
def test_taps_of_the_gaussian_are_scipys(level: int) -> None:
    sigma = IMAGENET_C["gaussian_blur"][level - 1]["sigma_px"]
    impulse = np.zeros(101)
    impulse[50] = 1
    expected = ndimage.gaussian_filter1d(impulse, sigma, truncate=4.0)
    taps = gaussian_taps(sigma, truncate=4.0)
    radius = taps.size // 2
    assert np.abs(taps - expected[50 - radius : 51 + radius]).max() < 1e-12
    assert not expected[: 50 - radius].any()


def zoom_reference(plane: npt.NDArray[np.float64], factor: float) -> npt.NDArray[np.float64]:
    """One channel, zoomed by SciPy and cut back to its size about its centre."""
    height, width = plane.shape
    rows, columns = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - rows) // 2, (width - columns) // 2
    large = ndimage.zoom(plane[top : top + rows, left : left + columns], factor, order=1)
    top, left = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
    return np.asarray(large[top : top + height, left : left + width])


@every_size
@every_level
def test_zoom_blur_equals_the_mean_of_scipys_zooms_within_one_level(level: int, size: tuple[int, int]) -> None:
    params = IMAGENET_C["zoom_blur"][level - 1]
    factors = np.arange(1, params["end"], params["step"])
    # Before version 5 OpenCV samples at 32nds of a pixel, which shows where every pixel differs from the next.
    limit = 1 if int(cv2.__version__.split(".")[0]) >= 5 else 2
    for picture, most in ((colourful(*size), limit), (smooth_scene(*size), 1)):
        planes = []
        for channel in range(3):
            x = picture[..., channel] / 255.0
            planes.append((x + sum(zoom_reference(x, factor) for factor in factors)) / (len(factors) + 1))
        difference = corrupt("zoom_blur", level, picture) - np.floor(np.clip(np.stack(planes, axis=2), 0, 1) * 255)
        assert np.abs(difference).max() <= most
        assert np.abs(difference.mean()) < 0.05  # single roundings, no tendency


def test_zoom_blur_counts_the_factors_as_the_original_does() -> None:
    """``arange`` includes an end that rounding puts below it."""
    counts = [len(np.arange(1, params["end"], params["step"])) for params in IMAGENET_C["zoom_blur"]]
    assert counts == [12, 16, 11, 13, 11]


@every_level
def test_zoom_blur_keeps_flat_areas(level: int) -> None:
    for value in range(0, 256, 5):
        flat = np.full((32, 32, 3), value, np.uint8)
        assert np.array_equal(corrupt("zoom_blur", level, flat), flat)
