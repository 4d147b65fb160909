"""The fast draws: the right distribution to the digits that their documentation states, and every shape."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from noise.corruptions.draws import bits16, halves, standard_normal


def test_the_sum_of_two_halves_is_normal_to_within_a_hundred_thousandth() -> None:
    table = halves().astype(np.float64)
    for place in np.linspace(-6, 6, 61):
        reached = np.searchsorted(table, place - table, side="right").mean() / table.size
        assert abs(reached - stats.norm.cdf(place)) < 1e-5
    assert table.mean() == pytest.approx(0, abs=1e-9)
    assert 2 * table.var() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("shape", [(1,), (3, 5), (33, 61, 3), (224, 224, 3)], ids=str)
def test_draws_fill_every_shape_and_are_independent(shape: tuple[int, ...]) -> None:
    assert bits16(np.random.default_rng(1), shape).shape == shape
    assert standard_normal(np.random.default_rng(1), shape).dtype == np.float32
    values = standard_normal(np.random.default_rng(1), (200_000,))
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.01
    assert np.bincount(bits16(np.random.default_rng(1), (1 << 20,)) >> 12).std() < 4 * (1 << 8)
