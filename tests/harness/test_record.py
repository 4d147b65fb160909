"""Scores of single answers against an independent reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special

from harness.record import score

LOGITS = hnp.arrays(np.float32, st.integers(2, 20), elements=st.floats(-30, 30, width=32))


@given(LOGITS, st.data())
def test_a_score_is_what_softmax_and_sorting_say(logits: np.ndarray, data: st.DataObject) -> None:
    label = data.draw(st.integers(0, len(logits) - 1))
    fields = score(logits, label, "logits")
    probabilities = special.softmax(logits.astype(np.float64))
    assert fields["prediction"] == int(np.argmax(logits))
    assert fields["correct"] == (fields["prediction"] == label)
    assert fields["top5"] == (sorted(logits, reverse=True).index(logits[label]) < 5)
    assert fields["log_probability"] == pytest.approx(special.log_softmax(logits.astype(np.float64))[label], abs=1e-4)
    assert fields["confidence"] == pytest.approx(probabilities.max(), abs=1e-5)
    assert fields["margin"] == pytest.approx(logits[label] - max(np.delete(logits, label)), abs=1e-4)


def test_probabilities_and_logits_give_the_same_score() -> None:
    logits = np.array([1.0, 3.0, -2.0, 0.5], np.float32)
    probabilities = special.softmax(logits)
    first, second = score(logits, 0, "logits"), score(probabilities, 0, "probabilities")
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert second[key] == pytest.approx(value, abs=1e-5)


def test_a_probability_of_zero_stays_finite() -> None:
    fields = score(np.array([0.0, 1.0], np.float32), 0, "probabilities")
    assert np.isfinite(fields["log_probability"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_no_number_is_an_error_and_no_prediction(bad: float) -> None:
    assert score(np.array([0.0, bad, 1.0], np.float32), 0, "logits") == {"error": "1 of 3 outputs are not finite"}
