"""SPSA: the gradient that it estimates, what it asks, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from noise.adversarial.base import Budget
from noise.adversarial.ledger import Ledger
from noise.adversarial.query.spsa import spsa
from noise.base import NoiseError
from tests.noise.adversarial.query_doubles import Linear, generators, linear, pictures_of


def unbreakable() -> Linear:
    weights = np.random.default_rng(3).normal(size=(2, 3, 6, 6)).astype(np.float32)
    weights[0] += 100
    return Linear(weights)


def test_questions_come_in_antithetic_pairs_with_the_picture_behind_each_step() -> None:
    model = unbreakable()
    pictures, labels = pictures_of(model, 1)
    spsa(Budget("linf", 0.05), queries=1 + 3 * 9, pairs=4)(Ledger(model, 8), pictures, labels, generators(1))
    rows = np.concatenate(model.batches)[1:]
    assert len(rows) == 27
    current = pictures[0]
    for step in range(3):
        probes, moved = rows[9 * step : 9 * step + 8], rows[9 * step + 8]
        if step == 0:  # later ones are cut off at the bounds
            np.testing.assert_allclose(
                probes[0::2] + probes[1::2], np.broadcast_to(2 * current, (4, 3, 6, 6)), atol=1e-6
            )
            np.testing.assert_allclose(np.abs(probes - current), 0.01, atol=1e-6)
        assert np.abs(moved - current).max() > 0.001
        current = moved


def test_the_first_step_goes_against_the_estimated_gradient() -> None:
    """Adam's first step is the sign of the gradient; with many pairs that is the sign of the weights' difference."""
    model = unbreakable()
    pictures, labels = pictures_of(model, 1)
    pairs = 4000
    spsa(Budget("linf", 0.05), queries=2 * pairs + 2, pairs=pairs)(Ledger(model, 500), pictures, labels, generators(1))
    step = model.batches[-1][0] - pictures[0]
    np.testing.assert_allclose(np.abs(step), 0.01, atol=1e-5)
    agreement = np.mean(np.sign(step) == -np.sign(model.weights[0] - model.weights[1]))
    assert agreement > 0.95


def test_spsa_comes_close_to_the_optimum_of_a_linear_model() -> None:
    model = linear(1, classes=2)
    pictures, labels = pictures_of(model, 4)
    for index, label in enumerate(labels):
        difference = model.weights[label] - model.weights[1 - label]
        nearest = float((difference * pictures[index]).sum() / np.abs(difference).sum())
        one = slice(index, index + 1)
        for share, breaks in ((0.98, False), (1.25, True)):
            ledger = Ledger(model, 8)
            spsa(Budget("linf", share * nearest), queries=5000)(ledger, pictures[one], labels[one], generators(1))
            assert (ledger.accounts[0].broken_at is not None) == breaks


def test_spsa_refuses_what_it_cannot_do() -> None:
    with pytest.raises(NoiseError, match="spsa is bounded in linf; got l2:1"):
        spsa(Budget("l2", 1))
    with pytest.raises(NoiseError, match="pairs from 1, and probe and step above 0; got 0, "):
        spsa(Budget("linf", 0.1), pairs=0)
    with pytest.raises(NoiseError, match="got 25, -1 and "):
        spsa(Budget("linf", 0.1), probe=-1)
