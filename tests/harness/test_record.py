"""Scores of single answers against an independent reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special

from harness.record import logit_distances, scores


def score(outputs: np.ndarray, label: int, output_kind: str) -> dict[str, Any]:
    (fields,) = scores(outputs[None], [label], output_kind)
    return fields


def logit_distance(outputs: np.ndarray, reference: np.ndarray, output_kind: str) -> float | None:
    (distance,) = logit_distances(outputs[None], reference[None], output_kind)
    return distance


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


PAIRS = st.integers(2, 20).flatmap(
    lambda n: st.tuples(*[hnp.arrays(np.float32, n, elements=st.floats(-30, 30, width=16))] * 2)
)


@given(PAIRS)
def test_distance_is_that_of_centred_logits(pair: tuple[np.ndarray, np.ndarray]) -> None:
    ours, theirs = (each.astype(np.float64) - each.astype(np.float64).mean() for each in pair)
    got = logit_distance(*pair, "logits")
    if np.linalg.norm(theirs) > 1e-6:
        assert got == pytest.approx(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs), rel=1e-5)
        assert logit_distance(pair[0], pair[0], "logits") in (0.0, None)


def test_a_shift_of_all_logits_is_no_distance() -> None:
    assert logit_distance(np.float32([3, 5, 4]), np.float32([1, 3, 2]), "logits") == 0.0


def test_distance_of_probabilities_is_that_of_their_logits() -> None:
    ours, theirs = np.float32([1.0, 3.0, -2.0]), np.float32([1.5, 2.0, -1.0])
    got = logit_distance(special.softmax(ours), special.softmax(theirs), "probabilities")
    assert got == pytest.approx(logit_distance(ours, theirs, "logits"), rel=1e-5)


def test_there_is_no_distance_to_what_is_flat_or_not_finite() -> None:
    assert logit_distance(np.float32([1, 2]), np.float32([4, 4]), "logits") is None
    assert logit_distance(np.float32([1, 2]), np.float32([np.inf, 0]), "logits") is None
    assert logit_distance(np.float32([np.nan, 2]), np.float32([1, 0]), "logits") is None


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=st.floats(width=16)), st.data())
def test_no_answer_changes_its_neighbours(outputs: np.ndarray, data: st.DataObject) -> None:
    labels = [data.draw(st.integers(0, outputs.shape[1] - 1)) for _ in outputs]
    together = scores(outputs, labels, "logits")
    assert together == [score(one, label, "logits") for one, label in zip(outputs, labels, strict=True)]
    references = data.draw(hnp.arrays(np.float32, outputs.shape, elements=st.floats(width=16)))
    distances = logit_distances(outputs, references, "logits")
    assert distances == [logit_distance(*pair, "logits") for pair in zip(outputs, references, strict=True)]
