"""What the tests of single corruptions share: pictures, sizes, and the call as the harness makes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from harness.registry import noise_settings, step_function
from noise.base import Step
from noise.seed import generator

Picture = npt.NDArray[np.uint8]

LEVELS = range(1, 6)
SIZES = [(32, 32), (97, 130), (224, 224)]

every_level = pytest.mark.parametrize("level", LEVELS)
every_size = pytest.mark.parametrize("size", SIZES, ids=str)


def step_of(noise: str, level: int) -> Step:
    """The sensor step of a corruption at a severity."""
    step = noise_settings(noise)[str(level)]
    assert step is not None
    return step


def constants(noise: str) -> list[dict[str, Any]]:
    """The parameters of all severities, mildest first."""
    return [dict(step_of(noise, level).params) for level in LEVELS]


def draws(noise: str, level: int, sample_id: str = "a.jpg") -> np.random.Generator:
    """The generator that `corrupt` hands to the step."""
    return generator(0, step_of(noise, level).key, sample_id)


def corrupt(noise: str, level: int, picture: Picture, sample_id: str = "a.jpg") -> Picture:
    """The corrupted picture."""
    function = step_function(step_of(noise, level))
    return np.asarray(function(picture, draws(noise, level, sample_id)))


def colourful(height: int = 48, width: int = 56) -> Picture:
    """Random blocks and random pixels, with black, white and every grey among them."""
    rng = np.random.default_rng(9)
    blocks = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3)).repeat(8, 0).repeat(8, 1)[:height, :width]
    picture = np.where(rng.random((height, width, 1)) < 0.5, blocks, rng.integers(0, 256, (height, width, 3)))
    picture[:2] = 0
    picture[2:4] = 255
    picture[4:12] = np.resize(np.arange(256), (8, width))[:, :, None]
    return picture.astype(np.uint8)


def smooth_scene(height: int, width: int) -> Picture:
    """Slopes and soft waves of three colours: a picture in which half a pixel makes little difference."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = [100 + 60 * np.sin(x / 9 + c) + 40 * np.cos(y / (7 + c)) + 30 * y / height for c in range(3)]
    return np.clip(np.stack(planes, axis=2), 0, 255).astype(np.uint8)
