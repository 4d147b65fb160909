"""RayS: the radius along a ray, the optimum of a linear model, and its strength beside HopSkipJump."""

from __future__ import annotations

import numpy as np
import pytest

from noise.adversarial import DECISION
from noise.adversarial.base import Budget
from noise.adversarial.ledger import Ledger
from noise.adversarial.query.rays import _shorter, rays
from noise.base import NoiseError
from tests.noise.adversarial.query_doubles import TopClass, generators, linear, pictures_of


@pytest.mark.parametrize("border", [0.0031, 0.05, 0.31, 0.7, 0.9995])
@pytest.mark.parametrize("radius", [0.02, 0.4, 1.0])
def test_the_radius_of_a_ray_is_found_to_the_tolerance_and_only_if_it_is_shorter(border: float, radius: float) -> None:
    original, tolerance, asked = np.zeros((1, 1, 1), np.float32), 0.001, 0
    search = _shorter(original, np.ones(1, np.float32), radius, tolerance)
    rows = next(search)
    while True:
        (row,) = rows
        asked += 1
        try:
            rows = search.send(np.array([1.0 if row.item() < border else -1.0], np.float32))
        except StopIteration as end:
            found = end.value
            break
    if border > radius - tolerance:
        assert (found, asked) == (radius, 1)
    else:
        assert border - 1e-6 <= found <= border + 2 * tolerance
        assert asked <= 2 + 2 * np.log2(radius / tolerance)


def test_rays_comes_close_to_the_optimum_of_a_linear_model() -> None:
    model = linear(1, side=4, classes=2)
    pictures, labels = pictures_of(model, 4)
    for index, label in enumerate(labels):
        difference = model.weights[label] - model.weights[1 - label]
        nearest = float((difference * pictures[index]).sum() / np.abs(difference).sum())
        one = slice(index, index + 1)
        for share, breaks in ((0.98, False), (1.1, True)):
            ledger = Ledger(TopClass(model), 8, DECISION)
            rays(Budget("linf", share * nearest), queries=2000)(ledger, pictures[one], labels[one], generators(1))
            assert (ledger.accounts[0].broken_at is not None) == breaks


def test_rays_refuses_what_it_cannot_do() -> None:
    with pytest.raises(NoiseError, match="rays is bounded in linf; got l2:1"):
        rays(Budget("l2", 1))
    with pytest.raises(NoiseError, match="between 0 and 1; got 1"):
        rays(Budget("linf", 0.1), tolerance=1)
