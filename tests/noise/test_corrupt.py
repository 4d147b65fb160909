"""The one-call door: identity at severity 0, the same bytes as a run, and one clear message for bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness.registry import noise_settings, step_function
from noise.base import NoiseError
from noise.corrupt import corrupt, corruption_names
from noise.seed import generator
from tests.noise.reference import colourful

NINETEEN = {
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    *("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}
PICTURE = colourful(40, 50)

every_name = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.needs_overlays) if n == "frost" else n for n in corruption_names()]
)


def test_all_nineteen_are_there() -> None:
    assert set(corruption_names()) == NINETEEN | {"procedural_frost"}


@every_name
def test_severity_0_is_the_identity(name: str) -> None:
    same = corrupt(PICTURE, name, 0)
    assert np.array_equal(same, PICTURE)
    assert same is not PICTURE


@every_name
def test_bytes_are_those_of_a_run(name: str) -> None:
    step = noise_settings(name)["2"]
    assert step is not None
    expected = step_function(step)(PICTURE, generator(7, step.key, "n01440764/a.JPEG"))
    assert np.array_equal(corrupt(PICTURE, name, 2, seed=7, sample_id="n01440764/a.JPEG"), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PICTURE, "gausian_noise", 1), "no corruption 'gausian_noise'; did you mean 'gaussian_noise'"),
        ((PICTURE, "resize", 1), "no corruption 'resize'"),
        ((PICTURE, "fog", 6), "must be 0 to 5; got 6"),
        ((PICTURE, "fog", -1), "must be 0 to 5; got -1"),
        ((PICTURE, "fog", "1"), "must be 0 to 5; got '1'"),
        ((PICTURE, "fog", 1.0), r"must be 0 to 5; got 1\.0"),
        ((PICTURE, "fog", True), "must be 0 to 5; got True"),
        ((PICTURE / 255, "fog", 1), "as uint8; got float64"),
        (([[1]], "fog", 1), "as uint8; got list"),
        ((PICTURE[..., 0], "fog", 1), r"three channels.*got shape \[40, 50\]"),
        ((np.zeros((40, 40, 4), np.uint8), "fog", 1), r"three channels.*got shape \[40, 40, 4\]"),
        ((np.zeros((31, 40, 3), np.uint8), "fog", 1), "at least 32 x 32 pixels; got 31 x 40"),
    ],
    ids=lambda value: "" if isinstance(value, tuple) else str(value)[:30],
)
def test_bad_input_gives_one_clear_message(arguments: Any, message: str) -> None:
    with pytest.raises(NoiseError, match=message):
        corrupt(*arguments)


@every_name
def test_a_picture_of_31_pixels_is_refused_in_a_run_too(name: str) -> None:
    step = noise_settings(name)["1"]
    assert step is not None
    with pytest.raises(NoiseError, match="at least 32 x 32 pixels; got 40 x 31"):
        step_function(step)(np.zeros((40, 31, 3), np.uint8), generator(0, step.key, "a"))
