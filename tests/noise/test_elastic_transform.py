"""Elastic transform against SciPy's filters and interpolation, given the same draws."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from noise.corruptions.elastic_transform import affine, elastic_transform, smooth
from tests.noise.reference import constants, corrupt, draws, every_level, every_size, smooth_scene

# (244 * 2, 244 * 0.7, 244 * 0.1) and so on.
IMAGENET_C = [
    {"strength_px": strength, "sigma_px": sigma, "shift_px": shift}
    for strength, sigma, shift in (
        (488, 170.8, 24.4),
        (488, 19.52, 48.8),
        (12.2, 2.44, 4.88),
        (17.08, 2.44, 4.88),
        (29.28, 2.44, 4.88),
    )
]


def test_constants_are_those_of_imagenet_c() -> None:
    assert constants("elastic_transform") == IMAGENET_C


def bent_by_affine(picture: npt.NDArray[np.uint8], shifts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Every pixel looked up where the inverse of the map says; the map is solved from its three points."""
    height, width = picture.shape[:2]
    reach = min(height, width) // 3
    x, y = width // 2, height // 2
    points = np.array([[x + reach, y + reach, 1], [x + reach, y - reach, 1], [x - reach, y - reach, 1]], float)
    forward = np.linalg.solve(points, points[:, :2] + shifts).T
    inverse = np.linalg.inv(np.vstack([forward, [0, 0, 1]]))
    rows, columns = np.mgrid[0:height, 0:width].astype(float)
    from_x = inverse[0, 0] * columns + inverse[0, 1] * rows + inverse[0, 2]
    from_y = inverse[1, 0] * columns + inverse[1, 1] * rows + inverse[1, 2]
    planes = [
        ndimage.map_coordinates(picture[..., c].astype(float), [from_y, from_x], order=1, mode="mirror")
        for c in range(3)
    ]
    return np.stack(planes, axis=2)


@every_size
@every_level
def test_elastic_transform_equals_scipys_interpolation_within_one_level(level: int, size: tuple[int, int]) -> None:
    params = IMAGENET_C[level - 1]
    height, width = size
    picture = smooth_scene(height, width)
    rng = draws("elastic_transform", level)
    bent = bent_by_affine(picture, rng.uniform(-params["shift_px"], params["shift_px"], (3, 2)))
    uniform = 2 * rng.random((2, height, width), dtype=np.float32).astype(np.float64) - 1
    across, down = (
        ndimage.gaussian_filter(each, params["sigma_px"], mode="reflect", truncate=3.0) * params["strength_px"]
        for each in uniform
    )
    rows, columns = np.mgrid[0:height, 0:width].astype(float)
    where = [rows + down, columns + across]
    planes = [ndimage.map_coordinates(bent[..., c], where, order=1, mode="reflect") for c in range(3)]
    difference = corrupt("elastic_transform", level, picture) - np.floor(np.clip(np.stack(planes, axis=2), 0, 255))
    assert np.abs(difference).max() <= 1
    assert np.abs(difference.mean()) < 0.05  # single roundings, no tendency


@every_size
@every_level
def test_displacement_equals_scipys_gaussian(level: int, size: tuple[int, int]) -> None:
    sigma, strength = IMAGENET_C[level - 1]["sigma_px"], IMAGENET_C[level - 1]["strength_px"]
    uniform = np.random.default_rng(2).random(size, dtype=np.float32) - np.float32(0.5)
    expected = ndimage.gaussian_filter(uniform.astype(np.float64), sigma, mode="reflect", truncate=3.0)
    got = smooth(uniform, sigma)
    assert np.abs(got - expected).max() * 2 * strength < 0.002  # pixels


def test_affine_map_without_shifts_is_the_identity() -> None:
    assert np.abs(affine(97, 130, np.zeros((3, 2))) - [[1, 0, 0], [0, 1, 0]]).max() < 1e-6


@every_level
def test_elastic_transform_keeps_a_flat_picture(level: int) -> None:
    for value in range(0, 256, 15):
        flat = np.full((48, 48, 3), value, np.uint8)
        assert np.array_equal(corrupt("elastic_transform", level, flat), flat)


def test_displacement_grows_with_severity_from_3_on() -> None:
    """Without the affine part, whose chance outweighs it in a single picture."""
    picture = smooth_scene(224, 224).astype(int)
    distances = []
    for params in IMAGENET_C[2:]:
        function = elastic_transform(**{**params, "shift_px": 0.0})
        bent = function(picture.astype(np.uint8), np.random.default_rng(4))
        distances.append(np.abs(bent - picture).mean())
    assert distances == sorted(distances)
    assert distances[0] > 0
