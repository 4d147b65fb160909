"""NV12 and channel order, against the standards' formulas, pixel by pixel, and against OpenCV's own converter."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from noise.base import Step
from noise.colour import MATRICES, RANGES, SETTINGS, bgr, nv12

Picture = npt.NDArray[np.uint8]
RNG = np.random.default_rng(0)
NOISY: Picture = np.random.default_rng(6).integers(0, 256, (12, 18, 3), dtype=np.uint8)
NV12 = [step.params for step in SETTINGS.values() if isinstance(step, Step) and step.name == "nv12"]


def slow_codes(rgb: npt.NDArray[np.float64], matrix: str, levels: str) -> tuple[float, float, float]:
    """Y, Cb and Cr of one pixel, not rounded. ITU-R BT.601-7 section 2.5, BT.709-6 section 3; JFIF for full range."""
    red, green, blue = rgb / 255
    kr, kb = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}[matrix]
    y = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - y) / (2 - 2 * kb), (red - y) / (2 - 2 * kr)
    if levels == "full":
        return 255 * y, 255 * cb + 128, 255 * cr + 128
    return 219 * y + 16, 224 * cb + 128, 224 * cr + 128


def slow_rgb(codes: tuple[float, float, float], matrix: str, levels: str) -> list[float]:
    """The pixel again."""
    y, cb, cr = codes
    if levels == "full":
        y, cb, cr = y / 255, (cb - 128) / 255, (cr - 128) / 255
    else:
        y, cb, cr = (y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224
    kr, kb = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}[matrix]
    red, blue = y + (2 - 2 * kr) * cr, y + (2 - 2 * kb) * cb
    return [255 * red, 255 * (y - kr * red - kb * blue) / (1 - kr - kb), 255 * blue]


def slow_nv12(picture: Picture, matrix: str, levels: str, read_matrix: str, read_levels: str) -> Picture:
    height, width = picture.shape[:2]
    result = np.empty_like(picture)
    for top in range(0, height, 2):
        for left in range(0, width, 2):
            # Beyond an odd side the last pixel is repeated.
            places = [(min(y, height - 1), min(x, width - 1)) for y in (top, top + 1) for x in (left, left + 1)]
            codes = np.array([slow_codes(picture[place].astype(float), matrix, levels) for place in places])
            cb, cr = np.clip(np.rint(codes[:, 1:].mean(axis=0)), 0, 255)
            for place, (luma, _, _) in zip(places, codes, strict=True):
                stored = (float(np.clip(np.rint(luma), 0, 255)), float(cb), float(cr))
                result[place] = np.clip(np.rint(slow_rgb(stored, read_matrix, read_levels)), 0, 255)
    return result


@pytest.mark.parametrize("params", NV12, ids=lambda params: "-".join(params.values()))
@pytest.mark.parametrize("size", [(12, 18), (11, 18), (12, 17), (1, 1)], ids=str)
def test_nv12_equals_the_standards_formula(params: dict[str, str], size: tuple[int, int]) -> None:
    picture = np.ascontiguousarray(NOISY[: size[0], : size[1]])
    got, expected = nv12(**params)(picture, RNG), slow_nv12(picture, **params)
    assert got.dtype == np.uint8
    assert got.shape == picture.shape
    # Sums in float32 and float64 round a tie to different sides now and then.
    difference = np.abs(got.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def test_limited_bt601_is_what_opencv_makes_of_nv12() -> None:
    smooth = cv2.resize(np.ascontiguousarray(NOISY[:3, :4]), (180, 120), interpolation=cv2.INTER_LINEAR)
    planar = cv2.cvtColor(smooth, cv2.COLOR_RGB2YUV_I420)
    theirs = cv2.cvtColor(planar, cv2.COLOR_YUV2RGB_I420).astype(int)
    ours = nv12(matrix="bt601", levels="limited", read_matrix="bt601", read_levels="limited")(smooth, RNG)
    assert np.abs(ours - theirs).mean() < 1  # OpenCV takes one of four colour differences, we their mean


def test_grey_keeps_its_level_in_full_range_and_within_a_level_in_limited_range() -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    for matrix in MATRICES:
        for levels, allowed in (("full", 0), ("limited", 1)):
            got = nv12(matrix=matrix, levels=levels, read_matrix=matrix, read_levels=levels)(grey, RNG)
            assert np.abs(got.astype(int) - grey).max() <= allowed, (matrix, levels)


def test_limited_range_read_as_full_lifts_black_and_dims_white() -> None:
    ends = np.array([[[0] * 3, [255] * 3]], np.uint8)
    got = nv12(matrix="bt601", levels="limited", read_matrix="bt601", read_levels="full")(ends, RNG)
    assert got[0, :, 0].tolist() == [16, 235]
    crushed = nv12(matrix="bt601", levels="full", read_matrix="bt601", read_levels="limited")(ends, RNG)
    assert crushed[0, :, 0].tolist() == [0, 255]


def test_every_matrix_and_range_is_a_setting() -> None:
    for matrix in MATRICES:
        for levels in RANGES:
            assert f"nv12-{matrix}-{levels}" in SETTINGS


def test_bgr_swaps_red_and_blue_and_twice_is_nothing() -> None:
    once = bgr()(NOISY, RNG)
    assert np.array_equal(once[..., 0], NOISY[..., 2])
    assert np.array_equal(once[..., 1], NOISY[..., 1])
    assert np.array_equal(bgr()(once, RNG), NOISY)
