"""Fog and spatter against references that are slow and obvious, given the same draws."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from noise.base import NoiseError
from noise.corruptions.draws import standard_normal
from noise.corruptions.fog import plasma
from noise.corruptions.spatter import spatter
from tests.noise.reference import LEVELS, colourful, constants, corrupt, draws, every_level, every_size

IMAGENET_C: dict[str, list[dict[str, float]]] = {
    "fog": [
        {"thickness": thickness, "wibble_decay": decay}
        for thickness, decay in ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))
    ],
    "spatter": [
        {"mean": 0.65, "deviation": 0.3, "sigma_px": 4, "threshold": 0.69, "opacity": 0.6},
        {"mean": 0.65, "deviation": 0.3, "sigma_px": 3, "threshold": 0.68, "opacity": 0.6},
        {"mean": 0.65, "deviation": 0.3, "sigma_px": 2, "threshold": 0.68, "opacity": 0.5},
        {"mean": 0.65, "deviation": 0.3, "sigma_px": 1, "threshold": 0.65, "edge_sigma_px": 1.5},
        {"mean": 0.67, "deviation": 0.4, "sigma_px": 1, "threshold": 0.65, "edge_sigma_px": 1.5},
    ],
}
PLASMA_SIDES = {(32, 32): 32, (97, 130): 256, (224, 224): 256}


@pytest.mark.parametrize("noise", IMAGENET_C)
def test_constants_are_those_of_imagenet_c(noise: str) -> None:
    assert constants(noise) == IMAGENET_C[noise]


def plasma_reference(side: int, decay: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Diamond-square, point by point, on a map that wraps around."""
    points = np.zeros((side, side))
    step, wibble = side, 100.0
    while step >= 2:
        half, count = step // 2, side // step
        offsets = wibble * (wibble * (2 * rng.random((3, count, count), dtype=np.float32).astype(np.float64) - 1))

        def mean(y: int, x: int, neighbours: tuple[tuple[int, int], ...]) -> float:
            return float(sum(points[(y + dy) % side, (x + dx) % side] for dy, dx in neighbours)) / 4

        diagonal = ((-half, -half), (-half, half), (half, -half), (half, half))
        straight = ((-half, 0), (half, 0), (0, -half), (0, half))
        cells = [(i, j, i * step, j * step) for i in range(count) for j in range(count)]
        for i, j, y, x in cells:
            points[y + half, x + half] = mean(y + half, x + half, diagonal) + offsets[0, i, j]
        for i, j, y, x in cells:
            points[y, x + half] = mean(y, x + half, straight) + offsets[1, i, j]
            points[y + half, x] = mean(y + half, x, straight) + offsets[2, i, j]
        step, wibble = half, wibble / decay
    points -= points.min()
    return points / points.max()


@pytest.mark.parametrize("side", [2, 32, 256])
@pytest.mark.parametrize("decay", [2.0, 1.4])
def test_plasma_equals_diamond_square_point_by_point(side: int, decay: float) -> None:
    got = plasma(side, decay, np.random.default_rng(1))
    assert np.abs(got - plasma_reference(side, decay, np.random.default_rng(1))).max() < 1e-5


@every_size
@every_level
def test_fog_equals_the_formula_within_one_level(level: int, size: tuple[int, int]) -> None:
    params = IMAGENET_C["fog"][level - 1]
    picture = (colourful(*size) * 0.8).astype(np.uint8)
    cloud = plasma_reference(PLASMA_SIDES[size], params["wibble_decay"], draws("fog", level))
    x = picture / 255.0
    brightest = x.max()
    foggy = x + params["thickness"] * cloud[: size[0], : size[1], None]
    expected = np.floor(np.clip(foggy * brightest / (brightest + params["thickness"]), 0, 1) * 255)
    difference = corrupt("fog", level, picture) - expected
    assert np.abs(difference).max() <= 1
    assert np.abs(difference.mean()) < 0.01  # single roundings, no tendency


def test_fog_leaves_black_black() -> None:
    """The original scales by the brightest value, so that a black picture stays black."""
    assert not corrupt("fog", 5, np.zeros((32, 32, 3), np.uint8)).any()


def liquid_reference(level: int, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    params = IMAGENET_C["spatter"][level - 1]
    normal = standard_normal(draws("spatter", level), size).astype(np.float64)
    layer = params["mean"] + params["deviation"] * normal
    layer = np.asarray(ndimage.gaussian_filter(layer, params["sigma_px"], mode="nearest", truncate=4.0))
    layer[layer < params["threshold"]] = 0
    return layer


def spatter_reference(level: int, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The original's order; edges, distances and equalisation are the OpenCV calls that it makes."""
    params = IMAGENET_C["spatter"][level - 1]
    layer = liquid_reference(level, (picture.shape[0], picture.shape[1]))
    x = picture / 255.0
    if "edge_sigma_px" in params:
        mask = ndimage.gaussian_filter(
            np.where(layer > params["threshold"], 1.0, 0.0), params["edge_sigma_px"], mode="nearest", truncate=4.0
        )
        mask[mask < 0.8] = 0
        mud = np.array([63, 42, 20]) / 255
        return np.floor(np.clip(x * (1 - mask[..., None]) + mud * mask[..., None], 0, 1) * 255)
    depth = (layer * 255).astype(np.uint8)
    distance = cv2.distanceTransform(255 - cv2.Canny(depth, 50, 150), cv2.DIST_L2, 5).astype(np.float64)
    distance[distance > 20] = 20
    distance = ndimage.uniform_filter(distance, 3, mode="mirror")
    relief = cv2.equalizeHist(np.floor(distance + 1e-4).astype(np.uint8)).astype(np.float64)
    kernel = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    relief = np.clip(ndimage.correlate(relief, kernel, mode="mirror"), 0, 255)
    relief = np.rint(ndimage.uniform_filter(relief, 3, mode="mirror"))
    light = depth * relief
    light = light / light.max() * params["opacity"]
    water = np.array([175, 238, 238]) / 255
    return np.floor(np.clip(x + light[..., None] * water, 0, 1) * 255)


@pytest.mark.parametrize("size", [(97, 130), (224, 224)], ids=str)
@every_level
def test_spatter_equals_the_originals_order_of_operations_within_one_level(level: int, size: tuple[int, int]) -> None:
    picture = colourful(*size)
    result = corrupt("spatter", level, picture)
    assert np.mean(result != picture) > 0.02  # there is something to compare
    difference = np.abs(result - spatter_reference(level, picture))
    # A point of the layer on a threshold falls to one side in single precision and to the other in double.
    assert np.mean(difference > 1) < 0.001
    assert difference.mean() < 0.1


def test_spatter_grows_with_severity_among_water_and_among_mud() -> None:
    picture = colourful(224, 224)
    covered = [np.mean(corrupt("spatter", level, picture) != picture) for level in LEVELS]
    assert covered[0] < covered[1] < covered[2]
    assert covered[3] < covered[4]


def test_spatter_of_water_without_a_drop_leaves_the_picture_alone() -> None:
    picture = colourful(32, 32)
    dry = spatter(mean=0.0, deviation=0.01, sigma_px=4, threshold=0.69, opacity=0.6)
    assert np.array_equal(dry(picture, np.random.default_rng(0)), picture)


@pytest.mark.parametrize("both", [{}, {"opacity": 0.6, "edge_sigma_px": 1.5}], ids=["neither", "both"])
def test_spatter_must_be_water_or_mud(both: dict[str, float]) -> None:
    with pytest.raises(NoiseError, match="water with an opacity or mud with an edge_sigma_px; got"):
        spatter(mean=0.65, deviation=0.3, sigma_px=4, threshold=0.69, **both)


@pytest.mark.parametrize("noise", IMAGENET_C)
@every_size
def test_weather_corruptions_keep_every_size(noise: str, size: tuple[int, int]) -> None:
    for level in LEVELS:
        assert corrupt(noise, level, colourful(*size)).shape == (*size, 3)
