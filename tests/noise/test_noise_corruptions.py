"""Shot noise and speckle noise: the formula on the same draws, and the distribution over many pictures."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from harness.registry import step_function
from noise.base import NoiseError
from noise.corruptions.draws import standard_normal
from noise.corruptions.shot_noise import cumulative, shot_noise
from noise.seed import generator
from tests.noise.reference import LEVELS, SIZES, colourful, constants, corrupt, draws, step_of

IMAGENET_C: dict[str, list[dict[str, float]]] = {
    "shot_noise": [{"photons": photons} for photons in (60, 25, 12, 5, 3)],
    "speckle_noise": [{"sigma": sigma} for sigma in (0.15, 0.2, 0.35, 0.45, 0.6)],
}
PICTURES = 200
SIDE = 32

every_level = pytest.mark.parametrize("level", LEVELS)


@pytest.mark.parametrize("noise", IMAGENET_C)
def test_constants_are_those_of_imagenet_c(noise: str) -> None:
    assert constants(noise) == IMAGENET_C[noise]


def original(noise: str, constant: float, picture: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint8]:
    """The formula in double precision, with NumPy's own distributions."""
    rng = np.random.default_rng(seed)
    x = picture / 255.0
    poisson = noise == "shot_noise"
    noisy = rng.poisson(x * constant) / constant if poisson else x + x * rng.normal(0, constant, x.shape)
    return (np.clip(noisy, 0, 1) * 255).astype(np.uint8)


@every_level
@pytest.mark.parametrize("noise", IMAGENET_C)
def test_mean_variance_and_channels_over_many_pictures_are_those_of_the_formula(noise: str, level: int) -> None:
    constant = next(iter(IMAGENET_C[noise][level - 1].values()))
    step = step_of(noise, level)
    function = step_function(step)
    for value in (3, 60, 128, 255):
        flat = np.full((SIDE, SIDE, 3), value, np.uint8)
        got = np.stack([function(flat, generator(0, step.key, f"{i}.jpg")) for i in range(PICTURES)]).astype(float)
        wanted = np.stack([original(noise, constant, flat, i) for i in range(PICTURES)]).astype(float)
        spread = max(wanted.std(), 0.5)
        five_errors = 5 * math.sqrt(2 / got.size)
        assert abs(got.mean() - wanted.mean()) < five_errors * spread
        assert got.std() == pytest.approx(wanted.std(), rel=0.01, abs=0.05)
        pixel_errors = 6 * wanted.std(axis=0).max() * math.sqrt(2 / PICTURES) + 0.5
        assert np.abs(got.mean(axis=0) - wanted.mean(axis=0)).max() < pixel_errors
        if got.std() > 0:
            correlation = np.corrcoef(got.reshape(-1, 3).T)
            assert np.abs(correlation - np.eye(3)).max() < 5 / math.sqrt(PICTURES * SIDE * SIDE)


@pytest.mark.parametrize("value", [1, 60, 128, 254])
@every_level
def test_shot_noise_has_the_poisson_distribution(level: int, value: int) -> None:
    photons = int(IMAGENET_C["shot_noise"][level - 1]["photons"])
    flat = np.full((300, 300, 3), value, np.uint8)
    got = np.bincount(corrupt("shot_noise", level, flat).ravel(), minlength=256)
    counts = np.arange(photons)
    chances = stats.poisson.pmf(counts, value / 255 * photons)
    expected = np.zeros(256)
    np.add.at(expected, (counts / photons * 255).astype(np.uint8), chances * flat.size)
    expected[255] += max(1 - chances.sum(), 0) * flat.size
    assert not got[expected == 0].any()
    common = expected > 10
    rare = np.array([got[~common].sum(), expected[~common].sum()])
    observed, wanted = np.append(got[common], rare[0]), np.append(expected[common], rare[1])
    if rare[1] < 1:
        assert rare[0] < 12
        observed, wanted = observed[:-1], wanted[:-1] * observed[:-1].sum() / wanted[:-1].sum()
    if observed.size > 1:
        assert stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-5


@pytest.mark.parametrize("photons", [60, 25, 12, 5, 3])
def test_table_of_shot_noise_is_the_cumulative_distribution(photons: int) -> None:
    exact = stats.poisson.cdf(np.arange(photons)[None], np.arange(256)[:, None] / 255 * photons)
    assert np.abs(cumulative(photons) / 2.0**48 - exact).max() < 1e-12


@every_level
def test_shot_noise_turns_its_draws_into_counts_by_the_inverse_of_the_distribution(level: int) -> None:
    photons = int(IMAGENET_C["shot_noise"][level - 1]["photons"])
    picture = colourful(97, 130)
    draw = draws("shot_noise", level).integers(0, 1 << 16, picture.shape, dtype=np.uint16)
    # Only the upper 16 bits are known here: the count lies between those of the lowest and the highest rest.
    low, high = (stats.poisson.ppf((draw + rest) / 2.0**16, picture / 255 * photons) for rest in (1e-9, 1 - 1e-9))
    got = corrupt("shot_noise", level, picture)
    assert np.all(got >= (np.clip(low / photons, 0, 1) * 255).astype(np.uint8))
    assert np.all(got <= (np.clip(high / photons, 0, 1) * 255).astype(np.uint8))


def test_shot_noise_leaves_black_black() -> None:
    black = np.zeros((SIDE, SIDE, 3), np.uint8)
    assert not corrupt("shot_noise", 5, black).any()


@pytest.mark.parametrize("photons", [0, 0.5, 251, -3])
def test_shot_noise_refuses_counts_that_its_table_cannot_hold(photons: float) -> None:
    with pytest.raises(NoiseError, match="1 to 250 photons; got"):
        shot_noise(photons=photons)


@every_level
def test_speckle_noise_equals_the_formula_on_its_own_draws(level: int) -> None:
    sigma = IMAGENET_C["speckle_noise"][level - 1]["sigma"]
    picture = colourful(97, 130)
    normal = standard_normal(draws("speckle_noise", level), picture.shape).astype(np.float64)
    x = picture / 255.0
    expected = np.floor(np.clip(x + x * sigma * normal, 0, 1) * 255)
    difference = corrupt("speckle_noise", level, picture) - expected
    assert np.abs(difference).max() <= 1  # a sum that falls on a whole level, in one precision or the other
    assert np.mean(difference != 0) < 0.001


@pytest.mark.parametrize("noise", IMAGENET_C)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_noise_corruptions_keep_every_size(noise: str, size: tuple[int, int]) -> None:
    for level in LEVELS:
        assert corrupt(noise, level, colourful(*size)).shape == (*size, 3)
