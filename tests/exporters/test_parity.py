"""Parity: the numbers by hand, and what cannot be compared."""

from __future__ import annotations

import numpy as np
import pytest

from exporters.base import ExportError
from exporters.parity import parity_from_logits


def test_the_numbers_are_those_computed_by_hand() -> None:
    found = parity_from_logits(np.array([[1.0, 2.0], [4.0, 3.0]]), np.array([[1.0, 2.5], [3.0, 3.5]]))
    assert (found.n, found.agreeing, found.agreement) == (2, 1, 0.5)
    assert (found.max_error, found.mean_error) == (1.0, 0.5)
    assert found.spread == pytest.approx(np.sqrt(1.25))
    assert found.deviation == pytest.approx(np.sqrt((1.5**2 + 0.5**2) / 2))
    assert found.lost_margin == 1


def test_the_deviation_is_of_what_inputs_change_and_can_be_of_more_inputs() -> None:
    logits = np.array([[1.0, 2.0], [4.0, 3.0]])
    shifted = logits + np.array([1e6, 0])
    one, other = (parity_from_logits(each, each).deviation for each in (logits, shifted))
    assert one == pytest.approx(other)
    assert parity_from_logits(logits[:1], logits[:1], logits).deviation == one
    assert parity_from_logits(logits[:1], logits[:1]).deviation == 0


@pytest.mark.parametrize(
    ("reference", "other", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), r"\[2, 3\] and \[2, 4\]"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "parity needs logits"),
        (np.zeros((1, 2)), np.array([[0.0, np.nan]]), "the logits of the other form are not all finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(reference: np.ndarray, other: np.ndarray, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        parity_from_logits(reference, other)
