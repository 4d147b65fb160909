"""Contrast, pixelate and saturate against references that are slow and obvious."""

from __future__ import annotations

import colorsys

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from noise.corruptions.pixelate import nearest
from tests.noise.reference import LEVELS, colourful, constants, corrupt, every_level, every_size

IMAGENET_C: dict[str, list[dict[str, float]]] = {
    "contrast": [{"gain": gain} for gain in (0.4, 0.3, 0.2, 0.1, 0.05)],
    "pixelate": [{"scale": scale} for scale in (0.6, 0.5, 0.4, 0.3, 0.25)],
    "saturate": [{"gain": gain, "add": add} for gain, add in ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))],
}


@pytest.mark.parametrize("noise", IMAGENET_C)
def test_constants_are_those_of_imagenet_c(noise: str) -> None:
    assert constants(noise) == IMAGENET_C[noise]


@every_size
@every_level
def test_contrast_equals_the_formula_on_every_channel(level: int, size: tuple[int, int]) -> None:
    gain = IMAGENET_C["contrast"][level - 1]["gain"]
    picture = colourful(*size)
    picture[..., 2] //= 3  # three different means
    got = corrupt("contrast", level, picture)
    for channel in range(3):
        x = picture[..., channel] / 255.0
        mean = x.sum() / x.size
        expected = np.floor(np.clip((x - mean) * gain + mean, 0, 1) * 255)
        difference = got[..., channel] - expected
        assert np.abs(difference).max() <= 1  # a product that falls on a whole level, up to the order of a sum
        assert np.mean(difference != 0) < 0.02


def test_contrast_leaves_a_flat_picture_alone_up_to_the_truncation() -> None:
    flat = np.full((40, 40, 3), (7, 128, 250), np.uint8)
    difference = corrupt("contrast", 5, flat).astype(int) - flat
    assert difference.max() <= 0
    assert difference.min() >= -1


@every_size
@every_level
def test_pixelate_equals_two_resizes_by_pillow(level: int, size: tuple[int, int]) -> None:
    scale = IMAGENET_C["pixelate"][level - 1]["scale"]
    picture = colourful(*size)
    height, width = size
    small = Image.fromarray(picture).resize((int(width * scale), int(height * scale)), Image.Resampling.BOX)
    expected = np.array(small.resize((width, height), Image.Resampling.BOX))
    assert np.array_equal(corrupt("pixelate", level, picture), expected)


@pytest.mark.parametrize("scale", [each["scale"] for each in IMAGENET_C["pixelate"]])
def test_enlarging_takes_the_pixel_that_pillows_box_filter_takes_at_every_size(scale: float) -> None:
    for large in range(32, 520):
        small = int(large * scale)
        numbered = np.repeat(np.arange(small, dtype=np.float32)[None], 2, axis=0)
        expected = np.array(Image.fromarray(numbered).resize((large, 2), Image.Resampling.BOX))[0]
        assert np.array_equal(nearest(small, large), expected), (small, large)


def saturate_reference(picture: npt.NDArray[np.uint8], gain: float, add: float) -> npt.NDArray[np.int64]:
    result = np.zeros(picture.shape, np.int64)
    for y in range(picture.shape[0]):
        for x in range(picture.shape[1]):
            hue, saturation, value = colorsys.rgb_to_hsv(*(int(level) / 255 for level in picture[y, x]))
            strong = min(max(saturation * gain + add, 0.0), 1.0)
            result[y, x] = [int(255 * channel) for channel in colorsys.hsv_to_rgb(hue, strong, value)]
    return result


@pytest.mark.parametrize("size", [(32, 32), (48, 56)], ids=str)
@every_level
def test_saturate_equals_the_hsv_formula_within_one_level(level: int, size: tuple[int, int]) -> None:
    params = IMAGENET_C["saturate"][level - 1]
    picture = colourful(*size)
    difference = corrupt("saturate", level, picture) - saturate_reference(picture, params["gain"], params["add"])
    assert np.abs(difference).max() <= 1
    assert np.abs(difference.mean()) < 0.1  # single roundings, no tendency


@pytest.mark.parametrize(("level", "add"), [(4, 0.1), (5, 0.2)])
def test_saturate_turns_greys_red_where_saturation_is_added(level: int, add: float) -> None:
    greys = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2).repeat(3, 0).repeat(3, 1)
    result = corrupt("saturate", level, greys).astype(int)
    assert np.array_equal(result[..., 0], greys[..., 0])
    assert np.abs(result[..., 1:] - greys[..., 1:] * (1 - add)).max() <= 1


@pytest.mark.parametrize("level", [1, 2, 3])
def test_saturate_leaves_greys_alone_where_nothing_is_added(level: int) -> None:
    greys = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2).repeat(3, 0).repeat(3, 1)
    assert np.array_equal(corrupt("saturate", level, greys), greys)


@pytest.mark.parametrize("noise", IMAGENET_C)
@every_size
def test_digital_corruptions_keep_every_size(noise: str, size: tuple[int, int]) -> None:
    for level in LEVELS:
        assert corrupt(noise, level, colourful(*size)).shape == (*size, 3)


def test_pixelate_grows_with_severity_on_squares_that_fit_no_block() -> None:
    y, x = np.mgrid[0:224, 0:224]
    squares = np.where((x // 17 + y // 13) % 2, 200, 50)[..., None].repeat(3, axis=2).astype(np.uint8)
    distances = [np.abs(corrupt("pixelate", level, squares).astype(int) - squares).mean() for level in LEVELS]
    assert distances == sorted(distances)
    assert distances[0] > 0
