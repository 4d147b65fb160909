"""The ledger counts what a model really sees, wastes nothing, and hands on what is finished."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noise.adversarial import DECISION, SCORES
from noise.adversarial.base import Budget, Pictures
from noise.adversarial.ledger import (
    Account,
    Floats,
    Ledger,
    Search,
    Terms,
    scores_from_probabilities,
)
from noise.base import NoiseError
from tests.noise.adversarial.query_doubles import Linear, TopClass, generators, linear, pictures_of

BUDGET = Budget("linf", 0.05)


def wandering(original: Pictures, rng: np.random.Generator, *, lazy: bool = False) -> Search:
    """Asks a random number of questions at a time, some inside and some outside of the budget, some twice."""
    asked = [original]

    def questions(number: int) -> Iterator[Pictures]:
        for _ in range(number):
            if rng.random() < 0.3:
                yield asked[rng.integers(len(asked))]
            else:
                change = rng.uniform(-0.08, 0.08, original.shape)
                asked.append(np.clip(original + change, 0, 1).astype(np.float32))
                yield asked[-1]

    while rng.random() < 0.9:
        answers = yield (questions(rng.integers(5)) if lazy else list(questions(rng.integers(5))))
        assert answers.dtype == np.float32


schedules = st.tuples(
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.integers(1, 7),
    st.integers(1, 9),
    st.integers(2, 30),
    st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(schedules)
def test_the_ledger_says_exactly_what_the_model_saw(schedule: tuple[int, int, int, int, int, bool]) -> None:
    seed, number, batch, abreast, queries, lazy = schedule
    model = linear(seed)
    pictures, labels = pictures_of(model, number, seed)
    ledger = Ledger(model, batch, abreast=abreast)
    searches = [wandering(picture, rng, lazy=lazy) for picture, rng in zip(pictures, generators(number), strict=True)]
    found = ledger.search(Terms(BUDGET, queries, SCORES), pictures, labels, searches)
    assert ledger.queries == len(model.asked) == sum(account.queries for account in ledger.accounts)
    assert ledger.calls == len(model.batches)
    assert all(1 <= len(rows) <= batch for rows in model.batches)
    # Pictures differ from each other everywhere, so equal rows would be the same question about the same picture.
    assert len(set(model.asked)) == len(model.asked)
    assert all(1 <= account.queries <= queries for account in ledger.accounts)
    assert BUDGET.holds(found, pictures).all()
    rows = np.concatenate(model.batches)
    for picture, label, best, account in zip(pictures, labels, found, ledger.accounts, strict=True):
        # Pictures are further from each other than questions from their picture.
        own = rows[np.abs(rows - picture).max(axis=(1, 2, 3)) < 0.081]
        scores = model(own)
        misread, margins = scores.argmax(axis=1) != label, margins_of(scores, label)
        np.testing.assert_array_equal(np.float32(account.margins), margins)
        within = BUDGET.holds(own, np.broadcast_to(picture, own.shape))
        broken = np.flatnonzero(misread & within)
        assert account.broken_at == (broken[0] + 1 if len(broken) else None)
        expected = broken[0] if len(broken) else np.flatnonzero(within)[margins[within].argmin()]
        np.testing.assert_array_equal(best, own[expected])


def margins_of(scores: Floats, label: int) -> Floats:
    """The score of the true class minus the best other one, in float32 as a ledger reports it."""
    return np.array([row[label] - np.delete(row, label).max() for row in scores], np.float32)


@settings(max_examples=50, deadline=None)
@given(schedules)
def test_each_picture_is_handed_on_once_as_soon_as_its_search_has_ended(
    schedule: tuple[int, int, int, int, int, bool],
) -> None:
    seed, number, batch, abreast, queries, lazy = schedule
    model = linear(seed)
    pictures, labels = pictures_of(model, number, seed)
    searches = [wandering(picture, rng, lazy=lazy) for picture, rng in zip(pictures, generators(number), strict=True)]
    finished: dict[int, tuple[Pictures, Account]] = {}
    begun: list[int] = []

    def noted(place: int, picture: Search) -> Search:
        begun.append(place)
        yield from picture

    def on_finished(place: int, best: Pictures, account: Account) -> None:
        assert place not in finished
        finished[place] = best, account
        # What waits behind those abreast was not begun before one of them had ended.
        assert len(begun) < len(finished) + abreast

    ledger = Ledger(model, batch, abreast=abreast, on_finished=on_finished)
    watched = [noted(place, search) for place, search in enumerate(searches)]
    found = ledger.search(Terms(BUDGET, queries, SCORES), pictures, labels, watched)
    assert sorted(finished) == list(range(number))
    np.testing.assert_array_equal(np.stack([finished[place][0] for place in range(number)]), found)
    assert tuple(finished[place][1] for place in range(number)) == ledger.accounts


def changes(original: Pictures, number: int) -> Iterator[Pictures]:
    for step in range(number):
        yield original + np.float32(0.0001 * (step + 1))


def patient(original: Pictures, number: int) -> Search:
    for picture in changes(original, number):
        yield [picture]


def test_rows_of_all_standing_pictures_fill_the_batches() -> None:
    model = Linear(np.stack([np.ones((3, 4, 4)), np.zeros((3, 4, 4))]))
    pictures, labels = pictures_of(model, 12)
    ledger = Ledger(model, 5)
    ledger.search(Terms(BUDGET, 11, SCORES), pictures, labels, [patient(each, 50) for each in pictures])
    sizes = [len(rows) for rows in model.batches]
    assert sum(sizes) == 12 * 11
    assert sizes[:-1] == [5] * (len(sizes) - 1)


def test_many_questions_of_one_picture_fill_the_batches_too() -> None:
    model = Linear(np.stack([np.ones((3, 4, 4)), np.zeros((3, 4, 4))]))
    pictures, labels = pictures_of(model, 1)

    def search() -> Search:
        answers = yield changes(pictures[0], 20)
        assert len(answers) == 20

    Ledger(model, 8).search(Terms(BUDGET, 50, SCORES), pictures, labels, [search()])
    assert [len(rows) for rows in model.batches] == [1, 8, 8, 4]


def test_a_misread_original_costs_one_query_and_a_broken_picture_none_more() -> None:
    model = linear(0)
    pictures, labels = pictures_of(model, 3)
    labels[1] = (labels[1] + 1) % 3
    drawn: list[int] = []

    def search(index: int) -> Search:
        for step in range(30):
            drawn.append(index)
            # The fourth question moves against the true class, as far as the budget goes.
            change = (
                -0.05 * np.sign(model.weights[labels[index]]) if step == 3 else np.full((3, 8, 8), 1e-4 * (step + 1))
            )
            yield [(pictures[index] + change.astype(np.float32)).clip(0, 1)]

    ledger = Ledger(model, 4)
    found = ledger.search(Terms(BUDGET, 20, SCORES), pictures, labels, [search(index) for index in range(3)])
    assert [account.broken_at for account in ledger.accounts] == [5, 1, 5]
    assert [account.queries for account in ledger.accounts] == [5, 1, 5]
    assert 1 not in drawn
    np.testing.assert_array_equal(found[1], pictures[1])


def test_what_is_misread_outside_of_the_budget_breaks_nothing() -> None:
    model = linear(0)
    pictures, labels = pictures_of(model, 1)

    def search() -> Search:
        (answer,) = yield [(pictures[0] - 0.3 * np.sign(model.weights[labels[0]])).clip(0, 1).astype(np.float32)]
        assert answer < 0

    ledger = Ledger(model, 4)
    found = ledger.search(Terms(BUDGET, 20, SCORES), pictures, labels, [search()])
    assert ledger.accounts[0].broken_at is None
    assert ledger.accounts[0].queries == 2
    np.testing.assert_array_equal(found, pictures)


def test_a_search_that_asks_nothing_new_is_ended() -> None:
    model = linear(0)
    pictures, labels = pictures_of(model, 1)

    def search() -> Search:
        while True:
            yield [pictures[0]]

    ledger = Ledger(model, 4)
    ledger.search(Terms(BUDGET, 20, SCORES), pictures, labels, [search()])
    assert ledger.queries == 1
    assert ledger.accounts[0].repeated == 1000


def test_answers_are_margins_of_scores_or_signs_of_decisions() -> None:
    model = linear(0)
    pictures, labels = pictures_of(model, 1)
    seen: list[Floats] = []

    def search() -> Search:
        seen.append((yield [pictures[0] + np.float32(0.01)]))
        seen.append((yield []))

    def margins(asked: Linear | TopClass, gives: str, needs: str) -> list[float]:
        seen.clear()
        Ledger(asked, 2, gives).search(Terms(BUDGET, 9, needs), pictures, labels, [search()])
        assert len(seen[1]) == 0
        return [float(value) for value in seen[0]]

    scores = model(pictures + np.float32(0.01))[0]
    others = np.delete(scores, labels[0])
    assert margins(model, SCORES, SCORES) == [float(scores[labels[0]] - others.max())]
    assert margins(model, SCORES, DECISION) == [1.0]
    assert margins(TopClass(model), DECISION, DECISION) == [1.0]
    with pytest.raises(NoiseError, match="needs scores of all classes, and the model gives its top class alone"):
        margins(TopClass(model), DECISION, SCORES)


@pytest.mark.parametrize(
    ("answers", "gives", "message"),
    [
        (np.zeros((2, 4)), SCORES, r"expected scores \[1, classes\] of more than 2 classes; got \[2, 4\]"),
        (np.zeros((1, 2)), SCORES, r"of more than 2 classes; got \[1, 2\]"),
        (np.array([[0, np.nan, 1]]), SCORES, "scores that are not numbers"),
        (np.zeros((1, 3)), DECISION, r"expected top classes, integers \[1\]; got float64 \[1, 3\]"),
        (np.zeros(1), DECISION, r"integers \[1\]; got float64 \[1\]"),
    ],
)
def test_a_model_that_does_not_answer_as_it_declares_is_refused(answers: Floats, gives: str, message: str) -> None:
    pictures = np.zeros((1, 3, 4, 4), np.float32)
    with pytest.raises(NoiseError, match=message):
        Ledger(lambda rows: answers, 1, gives).search(
            Terms(BUDGET, 9, DECISION), pictures, np.array([2]), [patient(pictures[0], 3)]
        )


def test_probabilities_become_scores_of_the_same_order_even_where_they_are_zero() -> None:
    scores = scores_from_probabilities(np.array([[0.0, 0.2, 0.8]]))
    assert np.isfinite(scores).all()
    assert scores.argsort(axis=1).tolist() == [[0, 1, 2]]
    assert scores[0, 2] - scores[0, 1] == pytest.approx(np.log(4))


def test_a_ledger_refuses_what_cannot_be() -> None:
    with pytest.raises(NoiseError, match="at least 1; got 0 and 64"):
        Ledger(linear(0), 0)
    with pytest.raises(NoiseError, match="gives scores or decision; got 'gradient'"):
        Ledger(linear(0), 1, "gradient")
    with pytest.raises(NoiseError, match="at least 2, of which the first is clean; got 1"):
        Terms(BUDGET, 1, SCORES)
    with pytest.raises(NoiseError, match="as many labels and searches as pictures, 1; got 1 and 0"):
        Ledger(linear(0), 1).search(Terms(BUDGET, 9, SCORES), np.zeros((1, 3, 4, 4), np.float32), np.array([0]), [])


def test_no_pictures_are_no_question() -> None:
    ledger = Ledger(linear(0), 4)
    nothing = np.zeros((0, 3, 4, 4), np.float32)
    assert ledger.search(Terms(BUDGET, 9, SCORES), nothing, np.zeros(0, np.int64), []).shape == (0, 3, 4, 4)
    assert ledger.calls == 0
