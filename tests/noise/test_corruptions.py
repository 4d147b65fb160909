"""The corruptions against references that are slow and obvious, and their constants against ImageNet-C's."""

from __future__ import annotations

import colorsys
import io
import math

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy import ndimage, stats

from harness.registry import noise_settings, step_function
from noise.corruptions.defocus_blur import disk
from noise.corruptions.draws import standard_normal
from noise.seed import generator

Picture = npt.NDArray[np.uint8]

# Hendrycks and Dietterich (2019), make_imagenet_c.py.
IMAGENET_C: dict[str, list[dict[str, float]]] = {
    "gaussian_noise": [{"sigma": sigma} for sigma in (0.08, 0.12, 0.18, 0.26, 0.38)],
    "impulse_noise": [{"amount": amount} for amount in (0.03, 0.06, 0.09, 0.17, 0.27)],
    "defocus_blur": [
        {"radius": radius, "alias_sigma": sigma}
        for radius, sigma in ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
    ],
    "brightness": [{"add": add} for add in (0.1, 0.2, 0.3, 0.4, 0.5)],
    "jpeg_compression": [{"quality": quality} for quality in (25, 18, 15, 10, 7)],
}
LEVELS = range(1, 6)
MID_GREY = np.full((200, 200, 3), 128, np.uint8)

every_level = pytest.mark.parametrize("level", LEVELS)


def corrupt(noise: str, level: int, picture: Picture, sample_id: str = "a.jpg") -> Picture:
    step = noise_settings(noise)[str(level)]
    assert step is not None
    return np.asarray(step_function(step)(picture, generator(0, step.key, sample_id)))


def colourful(height: int = 48, width: int = 56) -> Picture:
    """Random blocks and random pixels, with black, white and every grey among them."""
    rng = np.random.default_rng(9)
    blocks = rng.integers(0, 256, (height // 8, width // 8, 3)).repeat(8, 0).repeat(8, 1)
    picture = np.where(rng.random((height, width, 1)) < 0.5, blocks, rng.integers(0, 256, (height, width, 3)))
    picture[:2] = 0
    picture[2:4] = 255
    picture[4:9] = np.resize(np.arange(256), (5, width))[:, :, None]
    return picture.astype(np.uint8)


@pytest.mark.parametrize("noise", IMAGENET_C)
def test_constants_are_those_of_imagenet_c(noise: str) -> None:
    steps = [noise_settings(noise)[str(level)] for level in LEVELS]
    assert [dict(step.params) for step in steps if step is not None] == IMAGENET_C[noise]


@every_level
def test_gaussian_noise_has_the_distribution_of_a_clipped_and_truncated_normal(level: int) -> None:
    sigma = 255 * IMAGENET_C["gaussian_noise"][level - 1]["sigma"]
    got = np.bincount(corrupt("gaussian_noise", level, MID_GREY).ravel(), minlength=256)
    edges = stats.norm.cdf(np.arange(1, 256), loc=128, scale=sigma)  # level k holds values from k to k + 1
    expected = np.diff(np.concatenate([[0.0], edges, [1.0]])) * MID_GREY.size
    # The chi-squared test wants at least some expected counts per bin: sum up the rare tails.
    common = expected > 10
    observed = np.append(got[common], got[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    if wanted[-1] < 1e-6:
        observed, wanted = observed[:-1], wanted[:-1]
    assert stats.chisquare(observed, wanted).pvalue > 1e-4


def test_gaussian_noise_on_mid_grey_has_its_sigma_and_the_half_level_of_truncation() -> None:
    residual = corrupt("gaussian_noise", 1, MID_GREY).astype(float) - 128
    sigma = 255 * 0.08
    five_errors = 5 * sigma / math.sqrt(residual.size)
    assert residual.mean() == pytest.approx(-0.5, abs=five_errors)
    assert residual.std() == pytest.approx(math.hypot(sigma, math.sqrt(1 / 12)), abs=five_errors)


def test_gaussian_noise_is_normal_and_independent_between_channels() -> None:
    residual = corrupt("gaussian_noise", 1, MID_GREY).astype(float) - 128
    # Truncation makes steps; a uniform draw fills them again.
    smooth = residual + np.random.default_rng(1).random(residual.shape)
    assert stats.kstest(smooth.ravel() / (255 * 0.08), "norm").pvalue > 1e-3
    correlation = np.corrcoef(residual.reshape(-1, 3).T)
    assert np.abs(correlation - np.eye(3)).max() < 5 / math.sqrt(200 * 200)


def test_gaussian_noise_equals_the_formula_on_its_own_draws() -> None:
    step = noise_settings("gaussian_noise")["3"]
    assert step is not None
    picture = colourful()
    draws = standard_normal(generator(0, step.key, "a.jpg"), picture.shape)
    expected = np.clip(picture / 255 + 0.18 * draws.astype(np.float64), 0, 1) * 255
    difference = corrupt("gaussian_noise", 3, picture).astype(int) - np.floor(expected).astype(int)
    assert np.abs(difference).max() <= 1  # a sum that falls on a whole level, in one precision or the other
    assert np.mean(difference != 0) < 0.001


@every_level
def test_impulse_noise_changes_the_amount_of_values_within_binomial_bounds(level: int) -> None:
    amount = IMAGENET_C["impulse_noise"][level - 1]["amount"]
    noisy = corrupt("impulse_noise", level, MID_GREY)
    changed = int((noisy != 128).sum())
    low, high = stats.binom.interval(1 - 1e-5, MID_GREY.size, amount)
    assert low <= changed <= high


@every_level
def test_impulse_noise_has_as_much_salt_as_pepper_and_nothing_else(level: int) -> None:
    noisy = corrupt("impulse_noise", level, MID_GREY)
    assert set(np.unique(noisy)) == {0, 128, 255}
    pepper, salt = int((noisy == 0).sum()), int((noisy == 255).sum())
    assert stats.binomtest(salt, salt + pepper, 0.5).pvalue > 1e-4


def test_impulse_noise_hits_single_channels() -> None:
    hit = corrupt("impulse_noise", 5, MID_GREY) != 128
    correlation = np.corrcoef(hit.reshape(-1, 3).T.astype(float))
    assert np.abs(correlation - np.eye(3)).max() < 5 / math.sqrt(200 * 200)


def brightness_reference(picture: Picture, add: float) -> npt.NDArray[np.int64]:
    result = np.zeros(picture.shape, np.int64)
    for y in range(picture.shape[0]):
        for x in range(picture.shape[1]):
            red, green, blue = (int(value) / 255 for value in picture[y, x])
            hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
            brighter = colorsys.hsv_to_rgb(hue, saturation, min(value + add, 1.0))
            result[y, x] = [int(255 * channel) for channel in brighter]
    return result


@every_level
def test_brightness_equals_the_hsv_formula_within_one_level(level: int) -> None:
    add = IMAGENET_C["brightness"][level - 1]["add"]
    picture = colourful()
    difference = corrupt("brightness", level, picture) - brightness_reference(picture, add)
    assert np.abs(difference).max() <= 1
    assert np.abs(difference.mean()) < 0.1  # single roundings, no tendency


def test_brightness_makes_black_grey() -> None:
    black = np.zeros((32, 32, 3), np.uint8)
    assert np.array_equal(corrupt("brightness", 2, black), np.full_like(black, 51))


def gaussian_taps(width: int, sigma: float) -> list[float]:
    middle = width // 2
    taps = [math.exp(-((index - middle) ** 2) / (2 * sigma**2)) for index in range(width)]
    return [tap / sum(taps) for tap in taps]


def disk_reference(radius: int, sigma: float) -> npt.NDArray[np.float64]:
    reach = max(8, radius)
    side = 2 * reach + 1
    sharp = np.zeros((side, side))
    for y in range(side):
        for x in range(side):
            if (x - reach) ** 2 + (y - reach) ** 2 <= radius**2:
                sharp[y, x] = 1.0
    sharp /= sharp.sum()
    taps = gaussian_taps(3 if radius <= 8 else 5, sigma)
    for axis in (0, 1):
        sharp = ndimage.correlate1d(sharp, taps, axis=axis, mode="mirror")
    return sharp


@every_level
def test_defocus_kernel_is_the_softened_disk(level: int) -> None:
    params = IMAGENET_C["defocus_blur"][level - 1]
    radius, sigma = int(params["radius"]), float(params["alias_sigma"])
    expected = disk_reference(radius, sigma)
    got = disk(radius, sigma)
    margin = (expected.shape[0] - got.shape[0]) // 2  # what is cut off weighs nothing
    got = np.pad(got, margin)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 1e-6
    assert got.sum() == pytest.approx(1.0, abs=0.02)  # a disk of radius 8 touches the border of its grid


@every_level
def test_defocus_blur_equals_a_convolution_with_the_disk_within_one_level(level: int) -> None:
    params = IMAGENET_C["defocus_blur"][level - 1]
    kernel = disk_reference(int(params["radius"]), float(params["alias_sigma"]))
    picture = colourful()
    planes = [ndimage.convolve(picture[..., c].astype(np.float64), kernel, mode="mirror") for c in range(3)]
    expected = np.floor(np.clip(np.stack(planes, axis=2), 0, 255))
    assert np.abs(corrupt("defocus_blur", level, picture) - expected).max() <= 1


@every_level
def test_jpeg_compression_equals_a_round_trip_through_pillow(level: int) -> None:
    picture = colourful()
    stored = io.BytesIO()
    Image.fromarray(picture).save(stored, "JPEG", quality=int(IMAGENET_C["jpeg_compression"][level - 1]["quality"]))
    assert np.array_equal(corrupt("jpeg_compression", level, picture), np.array(Image.open(stored)))


def test_jpeg_compression_halves_the_colour_planes() -> None:
    """4:2:0, as ImageNet-C: thin red and blue lines lose their colour, grey lines stay."""
    lines = np.zeros((32, 32, 3), np.uint8)
    lines[:, 0::2] = [255, 0, 0]
    lines[:, 1::2] = [0, 0, 255]
    blurred = corrupt("jpeg_compression", 1, lines).astype(int)
    before = np.abs(np.diff(lines.astype(int), axis=1)).mean()
    assert np.abs(np.diff(blurred, axis=1)).mean() < before / 2
