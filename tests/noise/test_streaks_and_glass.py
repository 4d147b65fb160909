"""Motion blur, snow, glass blur and frost against references that are slow and obvious, given the same draws."""

from __future__ import annotations

import ctypes
import io
import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy import ndimage

from noise.base import NoiseError
from noise.corruptions import overlays
from noise.corruptions.draws import standard_normal
from noise.corruptions.glass_blur import origins
from noise.corruptions.motion_blur import streaked
from noise.corruptions.snow import enlarged_noise
from tests.conftest import missing
from tests.noise.reference import Picture, colourful, constants, corrupt, draws, every_level, every_size

IMAGENET_C: dict[str, list[dict[str, float]]] = {
    "motion_blur": [
        {"radius_px": radius, "sigma_px": sigma} for radius, sigma in ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
    ],
    "glass_blur": [
        {"sigma_px": sigma, "reach_px": reach, "rounds": rounds}
        for sigma, reach, rounds in ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
    ],
    "snow": [
        dict(zip(("mean", "deviation", "zoom", "threshold", "radius_px", "sigma_px", "clarity"), row, strict=True))
        for row in (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        )
    ],
    "frost": [
        {"picture_weight": picture, "frost_weight": frost}
        for picture, frost in ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
    ],
}
ANGLES = (0.0, 45.0, -45.0, 17.3, -33.9, -61.2, -90.0, -112.7, -135.0)


@pytest.mark.parametrize("noise", IMAGENET_C)
def test_constants_are_those_of_imagenet_c(noise: str) -> None:
    assert constants(noise) == IMAGENET_C[noise]


def magick_reference(picture: Picture, radius: float, sigma: float, angle: float) -> Picture:
    """ImageMagick 6's MotionBlurImage with 16 bits per channel, pixel offset by pixel offset."""
    count = 2 * math.ceil(radius) + 1
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(count)]
    height, width = picture.shape[:2]
    total = np.zeros(picture.shape)
    for i, weight in enumerate(weights):
        right = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
        down = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
        rows = np.clip(np.arange(height) + down, 0, height - 1)
        columns = np.clip(np.arange(width) + right, 0, width - 1)
        total += weight / sum(weights) * picture[rows][:, columns]
    sixteen_bits = np.floor(257 * total + 0.5)
    return np.floor(sixteen_bits / 257).astype(np.uint8)


@every_size
@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize(("radius", "sigma"), [(10, 3), (20, 15)])
def test_streaks_equal_the_sum_of_shifted_pictures(
    size: tuple[int, int], angle: float, radius: int, sigma: int
) -> None:
    picture = colourful(*size)
    difference = streaked(picture, radius, sigma, angle).astype(int) - magick_reference(picture, radius, sigma, angle)
    assert np.abs(difference).max() <= 1
    assert np.mean(difference != 0) < 1e-3
    grey = streaked(picture[..., 0].copy(), radius, sigma, angle)
    assert np.array_equal(grey, streaked(picture, radius, sigma, angle)[..., 0])


def magick_blur(wand: Any, picture: Picture, radius: float, sigma: float, angle: float) -> Picture:
    """The real ImageMagick, called as ImageNet-C calls it."""
    stored = io.BytesIO()
    Image.fromarray(picture).save(stored, format="PNG")
    with wand.image.Image(blob=stored.getvalue()) as image:
        wand.api.library.MagickMotionBlurImage.argtypes = (ctypes.c_void_p, *3 * (ctypes.c_double,))
        wand.api.library.MagickMotionBlurImage(image.wand, radius, sigma, angle)
        decoded = cv2.imdecode(np.frombuffer(image.make_blob(), np.uint8), cv2.IMREAD_UNCHANGED)
    blurred = np.asarray(decoded, np.uint8)
    return blurred if blurred.ndim == 2 else blurred[..., ::-1]


@pytest.mark.parametrize("angle", ANGLES)
def test_streaks_are_those_of_imagemagick_itself(angle: float, request: pytest.FixtureRequest) -> None:
    try:
        import wand.api
        import wand.image
        import wand.version
    except ImportError as error:
        missing(request, "magick", f"ImageMagick's MagickWand or its binding is not installed: {error}")
    if wand.version.MAGICK_VERSION_INFO[0] != 6:
        missing(request, "magick", f"the original used ImageMagick 6; here is {wand.version.MAGICK_VERSION}")
    picture = colourful(97, 130)
    for channels in (picture, picture[..., 0].copy()):
        for radius, sigma in ((10, 3), (15, 8), (20, 15)):
            difference = streaked(channels, radius, sigma, angle).astype(int)
            difference -= magick_blur(wand, channels, radius, sigma, angle)
            assert np.abs(difference).max() <= 1
            assert np.mean(difference != 0) < 1e-3


@every_size
@every_level
def test_motion_blur_is_a_streak_at_an_angle_within_45_degrees(level: int, size: tuple[int, int]) -> None:
    params = IMAGENET_C["motion_blur"][level - 1]
    angle = draws("motion_blur", level).uniform(-45, 45)
    expected = magick_reference(colourful(*size), params["radius_px"], params["sigma_px"], angle)
    assert np.abs(corrupt("motion_blur", level, colourful(*size)).astype(int) - expected).max() <= 1


def copied_one_by_one(picture: Picture, reach: int, rng: np.random.Generator) -> Picture:
    """One round of the original: views of pixels are "swapped", from the lower right to the upper left."""
    picture = picture.copy()
    height, width = picture.shape[:2]
    side = 2 * reach
    draw = rng.integers(0, side * side, (height - side, width - side), dtype=np.uint8).astype(int)
    for h in range(height - reach, reach, -1):
        for w in range(width - reach, reach, -1):
            down, right = np.divmod(draw[h - reach - 1, w - reach - 1], side) - np.array([reach, reach])
            picture[h, w], picture[h + down, w + right] = picture[h + down, w + right], picture[h, w]
    return picture


@pytest.mark.parametrize("size", [(32, 32), (33, 61)], ids=str)
@pytest.mark.parametrize("reach", [1, 2, 3, 4])
def test_origins_are_those_of_copying_pixel_by_pixel(reach: int, size: tuple[int, int]) -> None:
    numbered = np.arange(size[0] * size[1], dtype=np.int32).reshape(*size, 1).repeat(3, axis=2)
    expected = copied_one_by_one(numbered, reach, np.random.default_rng(4))[..., 0].ravel()  # type: ignore[arg-type]
    assert np.array_equal(origins(*size, reach, np.random.default_rng(4)), expected)


@pytest.mark.parametrize("size", [(32, 32), (48, 61)], ids=str)
@every_level
def test_glass_blur_equals_the_originals_order_of_operations_within_one_level(
    level: int, size: tuple[int, int]
) -> None:
    params = IMAGENET_C["glass_blur"][level - 1]
    rng = draws("glass_blur", level)

    def soft(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        sigma = params["sigma_px"]
        return np.asarray(ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest", truncate=4.0))

    picture = (soft(colourful(*size) / 255.0) * 255 + 1e-9).astype(np.uint8)
    for _ in range(int(params["rounds"])):
        picture = copied_one_by_one(picture, int(params["reach_px"]), rng)
    expected = np.floor(np.clip(soft(picture / 255.0), 0, 1) * 255)
    assert np.abs(corrupt("glass_blur", level, colourful(*size)) - expected).max() <= 1


def flakes_reference(height: int, width: int, zoom: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """The middle of the layer enlarged by SciPy; the rest of the layer is not looked at, so it stays zero."""
    rows, columns = math.ceil(height / zoom), math.ceil(width / zoom)
    enlarged = ndimage.zoom(standard_normal(rng, (rows, columns)).astype(np.float64), zoom, order=1)
    top, left = (enlarged.shape[0] - height) // 2, (enlarged.shape[1] - width) // 2
    return np.asarray(enlarged[top : top + height, left : left + width])


@every_size
@pytest.mark.parametrize("zoom", [3, 2, 4, 4.5, 2.5])
def test_flakes_are_enlarged_as_scipy_does(zoom: float, size: tuple[int, int]) -> None:
    got = enlarged_noise(*size, zoom, np.random.default_rng(2))
    assert np.abs(got - flakes_reference(*size, zoom, np.random.default_rng(2))).max() < 1e-5


@every_size
@every_level
def test_snow_equals_the_originals_order_of_operations_within_one_level(level: int, size: tuple[int, int]) -> None:
    params = IMAGENET_C["snow"][level - 1]
    rng = draws("snow", level)
    flakes = flakes_reference(*size, params["zoom"], rng) * params["deviation"] + params["mean"]
    flakes[flakes < params["threshold"]] = 0
    layer = (np.clip(flakes, 0, 1) * 255).astype(np.uint8)
    streaks = magick_reference(layer, params["radius_px"], params["sigma_px"], rng.uniform(-135, -45)) / 255.0
    x = colourful(*size) / 255.0
    grey = x @ np.array([0.299, 0.587, 0.114])
    x = params["clarity"] * x + (1 - params["clarity"]) * np.maximum(x, grey[..., None] * 1.5 + 0.5)
    expected = np.floor(np.clip(x + streaks[..., None] + np.rot90(streaks, 2)[..., None], 0, 1) * 255)
    difference = corrupt("snow", level, colourful(*size)) - expected
    assert np.quantile(np.abs(difference), 0.999) <= 1
    assert np.abs(difference).max() <= 2  # a flake of one level less, on both layers, where single precision rounds


def test_snow_at_severity_3_is_milder_than_at_2_as_in_the_original() -> None:
    picture = colourful(64, 64)
    mild, strong = (
        np.mean([np.abs(corrupt("snow", level, picture, f"{i}.jpg").astype(int) - picture) for i in range(20)])
        for level in (3, 2)
    )
    assert mild < strong


@pytest.mark.needs_overlays
@pytest.mark.parametrize("size", [(32, 32), (224, 224), (314, 559), (400, 300)], ids=str)
@every_level
def test_frost_is_a_part_of_one_of_five_overlays(level: int, size: tuple[int, int]) -> None:
    params = IMAGENET_C["frost"][level - 1]
    picture = colourful(*size)
    rng = draws("frost", level)
    overlay = overlays.published()[rng.integers(5)]
    if overlay.shape[0] > size[0] and overlay.shape[1] > size[1]:
        top, left = rng.integers(overlay.shape[0] - size[0]), rng.integers(overlay.shape[1] - size[1])
        ice = overlay[top : top + size[0], left : left + size[1]].astype(np.float64)
        expected = np.clip(params["picture_weight"] * picture + params["frost_weight"] * ice, 0, 255).astype(np.uint8)
        assert np.abs(corrupt("frost", level, picture).astype(int) - expected).max() <= 1
    assert corrupt("frost", level, picture).shape == picture.shape


@pytest.mark.needs_overlays
def test_overlays_are_the_first_five_with_their_sizes() -> None:
    sizes = [each.shape[:2] for each in overlays.published()]
    assert sizes == [(600, 900), (315, 560), (315, 560), (350, 527), (495, 660)]


def test_folder_without_the_overlays_is_refused(tmp_path: Any) -> None:
    with pytest.raises(NoiseError, match=r"lacks frost1\.png, frost2\.png"):
        overlays.use_folder(tmp_path)
    for name in overlays.NAMES:
        (tmp_path / name).write_bytes(b"no frost")
    with pytest.raises(NoiseError, match="not those of ImageNet-C"):
        overlays.use_folder(tmp_path)


def test_without_overlays_frost_says_where_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlays, "_folders", [])
    monkeypatch.setattr(overlays, "find_spec", lambda name: None)
    overlays.published.cache_clear()
    with pytest.raises(NoiseError, match="--frost-overlays, or run pip install imagecorruptions"):
        overlays.published()
    overlays.published.cache_clear()
