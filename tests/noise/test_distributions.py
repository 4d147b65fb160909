"""Random corruptions against the original's formulas with NumPy's own draws, over 200 pictures.

What is compared, per picture, is the change that the corruption makes: its mean, its standard deviation, the
correlation of neighbouring pixels and of channels, and the share of its power at low, middle and high frequencies. The
means over 200 pictures must agree within five standard errors of their difference: a bound that a fair draw breaks
once in two million times, and a wrong constant at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from noise.corrupt import corrupt
from tests.noise.reference import Picture, constants
from tests.noise.test_streaks_and_glass import copied_one_by_one, magick_reference
from tests.noise.test_weather_corruptions import plasma_reference

PICTURES = 200
SIDE = 48
LEVEL = 3
STANDARD_ERRORS = 5.0

Original = Callable[[Picture, dict[str, float], np.random.Generator], npt.NDArray[np.float64]]


def gaussian_noise(x: Picture, c: dict[str, float], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return np.clip(x / 255 + rng.normal(size=x.shape, scale=c["sigma"]), 0, 1) * 255


def shot_noise(x: Picture, c: dict[str, float], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return np.asarray(np.clip(rng.poisson(x / 255 * c["photons"]) / c["photons"], 0, 1) * 255)


def impulse_noise(x: Picture, c: dict[str, float], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    flipped, white = rng.random(x.shape) <= c["amount"], rng.random(x.shape) <= 0.5
    return np.where(flipped, 255.0 * white, x)


def speckle_noise(x: Picture, c: dict[str, float], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return np.clip(x / 255 + x / 255 * rng.normal(size=x.shape, scale=c["sigma"]), 0, 1) * 255


def glass_blur(x: Picture, c: dict[str, float], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    sigma = (c["sigma_px"], c["sigma_px"], 0)
    moved = ndimage.gaussian_filter(x / 255, sigma, mode="nearest") * 255
    for _ in range(int(c["rounds"])):
        moved = copied_one_by_one(moved.astype(np.uint8), int(c["reach_px"]), rng)
    return np.asarray(np.clip(ndimage.gaussian_filter(moved / 255, sigma, mode="nearest"), 0, 1) * 255)


def motion_blur(x: Picture, c: dict[str, float], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return magick_reference(x, c["radius_px"], c["sigma_px"], rng.uniform(-45, 45)).astype(np.float64)


def snow(x: Picture, c: dict[str, float], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    layer = rng.normal(size=x.shape[:2], loc=c["mean"], scale=c["deviation"])
    part = math.ceil(SIDE / c["zoom"])
    top = (SIDE - part) // 2
    layer = ndimage.zoom(layer[top : top + part, top : top + part], c["zoom"], order=1)
    trim = (layer.shape[0] - SIDE) // 2
    layer = layer[trim : trim + SIDE, trim : trim + SIDE]
    layer[layer < c["threshold"]] = 0
    flakes = (np.clip(layer, 0, 1) * 255).astype(np.uint8)
    streaks = magick_reference(flakes, c["radius_px"], c["sigma_px"], rng.uniform(-135, -45))[..., None] / 255
    y = x / 255
    grey = (y @ np.array([0.299, 0.587, 0.114]))[..., None]
    y = c["clarity"] * y + (1 - c["clarity"]) * np.maximum(y, grey * 1.5 + 0.5)
    return np.asarray(np.clip(y + streaks + np.rot90(streaks, 2), 0, 1) * 255)


def fog(x: Picture, c: dict[str, float], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    cloud = plasma_reference(64, c["wibble_decay"], rng)[:SIDE, :SIDE, None]
    brightest = x.max() / 255
    return np.clip((x / 255 + c["thickness"] * cloud) * brightest / (brightest + c["thickness"]), 0, 1) * 255


ORIGINALS: dict[str, Original] = {
    each.__name__: each
    for each in (gaussian_noise, shot_noise, impulse_noise, speckle_noise, glass_blur, motion_blur, snow, fog)
}


def pictures() -> list[Picture]:
    """Clouds of colour with a few edges, some dark and some bright."""
    rng = np.random.default_rng(11)
    made = []
    for _ in range(PICTURES):
        clouds = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE, 3)), (4, 4, 0), mode="wrap") * 300
        edges = 50.0 * (np.add.outer(np.arange(SIDE), np.arange(SIDE)) // 12 % 2)[..., None]
        made.append(np.clip(rng.uniform(60, 160) + clouds + edges, 0, 255).astype(np.uint8))
    return made


def statistics(change: npt.NDArray[np.float64]) -> list[float]:
    """Mean, deviation, correlation of neighbours and of channels, and three shares of the power spectrum."""
    centred = change - change.mean(axis=(0, 1))
    variance = (centred**2).mean() + 1e-9
    power = (np.abs(np.fft.fft2(centred, axes=(0, 1))) ** 2).sum(axis=2)
    frequency = np.hypot.outer(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE))
    bands = [power[(frequency >= low) & (frequency < high)].sum() for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 1))]
    return [
        float(change.mean()),
        float(np.sqrt(variance)),
        float((centred[1:] * centred[:-1]).mean() / variance),
        float((centred[:, 1:] * centred[:, :-1]).mean() / variance),
        float((centred[..., 0] * centred[..., 1]).mean() / variance),
        *(float(band / (power.sum() + 1e-9)) for band in bands),
    ]


def distances(name: str, constants_of_original: dict[str, float]) -> npt.NDArray[np.float64]:
    """How many standard errors the mean statistics of ours and the original's lie apart."""
    rng = np.random.default_rng(5)
    ours, original = [], []
    for index, picture in enumerate(pictures()):
        ours.append(statistics(corrupt(picture, name, LEVEL, sample_id=f"{index}.jpg").astype(np.float64) - picture))
        drawn = ORIGINALS[name](picture, constants_of_original, rng).astype(np.uint8)
        original.append(statistics(drawn.astype(np.float64) - picture))
    difference = np.array(ours) - np.array(original)
    return np.asarray(np.abs(difference.mean(axis=0)) / (difference.std(axis=0) / math.sqrt(PICTURES) + 1e-9))


@pytest.mark.parametrize("name", ORIGINALS)
def test_random_corruption_has_the_originals_distribution(name: str) -> None:
    assert distances(name, constants(name)[LEVEL - 1]).max() < STANDARD_ERRORS


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("gaussian_noise", {"sigma": 0.185}), ("impulse_noise", {"amount": 0.095}), ("shot_noise", {"photons": 13})],
)
def test_a_wrong_constant_is_caught(name: str, wrong: dict[str, float]) -> None:
    assert distances(name, wrong).max() > STANDARD_ERRORS


def test_a_real_swap_instead_of_the_originals_copy_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(picture: Picture, reach: int, rng: np.random.Generator) -> Picture:
        picture = picture.copy()
        for h in range(SIDE - reach, reach, -1):
            for w in range(SIDE - reach, reach, -1):
                down, right = rng.integers(-reach, reach, 2)
                here = picture[h, w].copy()
                picture[h, w] = picture[h + down, w + right]
                picture[h + down, w + right] = here
        return picture

    monkeypatch.setitem(globals(), "copied_one_by_one", swapped)
    assert distances("glass_blur", constants("glass_blur")[LEVEL - 1]).max() > STANDARD_ERRORS
