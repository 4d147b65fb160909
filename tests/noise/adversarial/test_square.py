"""Square: the schedule of the paper, the shape of what it asks, and its strength against public implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noise.adversarial.base import Budget, budget_from_text
from noise.adversarial.ledger import Ledger
from noise.adversarial.query.square import _bump, _Schedule, square
from noise.base import NoiseError
from tests.noise.adversarial.query_doubles import Linear, generators, linear, pictures_of


@pytest.mark.parametrize(
    ("iteration", "share"),
    [
        (0, 0.8),
        (10, 0.8),
        (11, 0.4),
        (50, 0.4),
        (51, 0.2),
        (200, 0.2),
        (201, 0.1),
        (500, 0.1),
        (501, 0.05),
        (1000, 0.05),
        (1001, 0.025),
        (2000, 0.025),
        (2001, 0.0125),
        (4000, 0.0125),
        (4001, 0.00625),
        (6000, 0.00625),
        (6001, 0.003125),
        (8000, 0.003125),
        (8001, 0.0015625),
        (10000, 0.0015625),
    ],
)
def test_the_share_of_squares_is_halved_where_the_paper_halves_it(iteration: int, share: float) -> None:
    assert _Schedule(10_000, 0.8).share(iteration) == pytest.approx(share)


def test_the_schedule_is_stretched_to_the_queries() -> None:
    short = _Schedule(5000, 0.8)
    assert [short.share(iteration) for iteration in (5, 6, 25, 26, 4000, 4001)] == pytest.approx(
        [0.8, 0.4, 0.4, 0.2, 0.8 / 256, 0.8 / 512]
    )
    assert [short.side(iteration, 224, 224) for iteration in (0, 6, 4001)] == [200, 142, 9]
    assert short.side(5000, 8, 8) == 1


def questions_about(model: Linear, budget: Budget, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """The original of one picture, and what was asked about it behind it."""
    pictures, labels = pictures_of(model, 1)
    square(budget, queries=queries)(Ledger(model, 8), pictures, labels, generators(1))
    rows = np.concatenate(model.batches)
    np.testing.assert_array_equal(rows[0], pictures[0])
    return pictures[0], rows[1:]


def unbreakable(side: int) -> Linear:
    """Changes of its scores can be read, and no picture is ever misread."""
    weights = np.random.default_rng(3).normal(size=(2, 3, side, side)).astype(np.float32)
    weights[0] += 100
    return Linear(weights)


def test_every_linf_question_differs_by_a_square_from_the_best_so_far() -> None:
    model, budget, queries = unbreakable(16), budget_from_text("8/255"), 400
    original, rows = questions_about(model, budget, queries)
    assert len(rows) == queries - 1
    signs = np.rint((rows - original) / budget.epsilon)
    np.testing.assert_allclose(rows, original + signs * np.float32(budget.epsilon), atol=1e-6)
    assert set(np.unique(signs)) == {-1, 1}
    # The first is stripes: in every channel one sign for a column.
    assert (signs[0] == signs[0][:, :1]).all()
    scores = model(rows)
    margins = scores[:, 0] - scores[:, 1]
    best = 0
    schedule = _Schedule(queries, 0.8)
    for number in range(1, len(rows)):
        changed = signs[number] != signs[best]
        assert changed.any()
        _, tall, wide = np.nonzero(changed)
        largest = schedule.side(number - 1, 16, 16)
        assert max(np.ptp(tall), np.ptp(wide)) < largest
        for channel in signs[number][:, tall.min() : tall.max() + 1, wide.min() : wide.max() + 1]:
            assert len(np.unique(channel)) == 1 or largest > max(np.ptp(tall), np.ptp(wide)) + 1
        best = number if margins[number] < margins[best] else best
    assert best > 0


@pytest.mark.parametrize("text", ["8/255", "l2:1"])
@pytest.mark.parametrize("side", [4, 9, 16])
def test_square_asks_nothing_twice_even_of_tiny_pictures(text: str, side: int) -> None:
    model = unbreakable(side)
    original, rows = questions_about(model, budget_from_text(text), 300)
    assert len({row.tobytes() for row in rows} | {original.tobytes()}) == len(rows) + 1
    assert budget_from_text(text).holds(rows, np.broadcast_to(original, rows.shape)).all()


def test_square_in_l2_uses_its_whole_budget() -> None:
    budget = Budget("l2", 1.5)
    original, rows = questions_about(unbreakable(16), budget, 200)
    # Grey noise from 0.3 to 0.7 is black or white nowhere within these changes but where they are at their peaks.
    distances = budget.distance(rows, np.broadcast_to(original, rows.shape))
    assert np.median(distances) == pytest.approx(1.5, abs=0.02)


def test_a_bump_is_a_rise_beside_its_negative() -> None:
    for side in (3, 6, 9, 44):
        bump = _bump(side)
        assert np.linalg.norm(bump) == pytest.approx(1, abs=1e-5)
        assert (bump[: side // 2] > 0).all()
        assert (bump[side // 2 :] < 0).all()
    # Side 4, upper half 2 x 4 by hand: ring 0 is row 1, column 2; ring 1 adds a quarter to columns 1 to 3 of both rows;
    # ring 2 a ninth to everything.
    rise = np.full((2, 4), 1 / 9)
    rise[:, 1:] += 1 / 4
    rise[1, 2] += 1
    upper = rise / np.linalg.norm(rise)
    np.testing.assert_allclose(_bump(4), np.concatenate([upper, -upper]) / math.sqrt(2), rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["4/255", "l2:0.3"]))
def test_the_bound_holds_and_order_and_company_change_nothing(seed: int, text: str) -> None:
    model = linear(seed)
    budget = budget_from_text(text)
    pictures, labels = pictures_of(model, 5, seed)
    attack = square(budget, queries=60)
    together = attack(Ledger(model, 4, abreast=3), pictures, labels, generators(5))
    assert budget.holds(together, pictures).all()
    for index in (4, 1):
        alone = attack(Ledger(model, 1), pictures[index : index + 1], labels[index : index + 1], [generators(5)[index]])
        np.testing.assert_array_equal(alone[0], together[index])


def test_square_comes_close_to_the_optimum_of_a_linear_model() -> None:
    """The least margin of a linear model within l-inf is known: every value moves by epsilon against its weight."""
    weights = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    model = Linear(weights)
    pictures, labels = pictures_of(model, 4)
    difference = np.stack([weights[label] - weights[1 - label] for label in labels])
    margins = (difference * pictures).sum(axis=(1, 2, 3))
    reach = np.abs(difference).sum(axis=(1, 2, 3))
    for share, breaks in ((1.02, False), (0.9, True)):
        for index in range(4):
            budget = Budget("linf", float(margins[index] / reach[index] / share))
            ledger = Ledger(model, 1)
            found = square(budget, queries=5000)(
                ledger, pictures[index : index + 1], labels[index : index + 1], generators(1)
            )
            assert (ledger.accounts[0].broken_at is not None) == breaks
            assert (model(found).argmax(axis=1)[0] != labels[index]) == breaks


@pytest.mark.parametrize("text", ["8/255", "l2:0.5"])
def test_square_goes_on_from_a_start_and_keeps_what_is_better(text: str) -> None:
    budget = budget_from_text(text)
    model = unbreakable(8)
    pictures, labels = pictures_of(model, 3)
    attack = square(budget, queries=200)
    starts = attack(Ledger(model, 3), pictures, labels, generators(3))
    model.batches.clear()
    ledger = Ledger(model, 3)
    refined = attack.refine(ledger, pictures, labels, starts, generators(3, seed=1))
    np.testing.assert_array_equal(model.batches[1], starts)

    def margins(rows: np.ndarray) -> np.ndarray:
        scores = model(rows)
        return scores[:, 0] - scores[:, 1]

    assert (margins(refined) < margins(starts)).all()


def test_square_refuses_what_it_cannot_do() -> None:
    with pytest.raises(NoiseError, match="square is bounded in linf or l2; got l1:10"):
        square(Budget("l1", 10))
    for share in (0, 1.5, math.nan):
        with pytest.raises(NoiseError, match="p_init is a share of the picture"):
            square(Budget("l2", 1), p_init=share)
