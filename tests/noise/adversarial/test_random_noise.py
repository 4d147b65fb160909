"""Random noise: the norm that it is drawn with, and how many draws a budget buys."""

from __future__ import annotations

import numpy as np
import pytest

from noise.adversarial.base import budget_from_text
from noise.adversarial.ledger import Ledger
from noise.adversarial.query.random_noise import random_noise
from tests.noise.adversarial.query_doubles import Linear, generators, pictures_of


@pytest.mark.parametrize("text", ["8/255", "l2:0.5", "l1:20"])
def test_noise_is_as_far_from_the_picture_as_the_budget_allows(text: str) -> None:
    budget = budget_from_text(text)
    weights = np.zeros((2, 3, 16, 16), np.float32)
    weights[0] = 1
    model = Linear(weights)
    pictures, labels = pictures_of(model, 3)
    ledger = Ledger(model, 3)
    found = random_noise(budget, queries=5)(ledger, pictures, labels, generators(3))
    assert [account.queries for account in ledger.accounts] == [5, 5, 5]
    # Draws of one picture fill a batch, so that the model was asked about three at a time.
    assert [len(batch) for batch in model.batches] == [3] * 5
    rows = np.concatenate(model.batches)[3:]
    nearest = np.array([budget.distance(rows, np.broadcast_to(picture, rows.shape)) for picture in pictures])
    assert np.bincount(nearest.argmin(axis=0)).tolist() == [4, 4, 4]
    np.testing.assert_allclose(nearest.min(axis=0), budget.epsilon, rtol=1e-4)
    # As often up as down.
    changes = rows - pictures[nearest.argmin(axis=0)]
    assert (abs(np.sign(changes).mean(axis=(1, 2, 3))) < 0.15).all()
    # Nothing is misread, so an attempt comes back, not the picture itself.
    np.testing.assert_allclose(budget.distance(found, pictures), budget.epsilon, rtol=1e-4)
