"""Budgets: how they are written, what they refuse, and 8-bit pictures that stay within them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noise.adversarial.base import NORMS, Budget, budget_from_text, levels_from_attacked
from noise.base import NoiseError


@pytest.mark.parametrize(
    ("text", "norm", "epsilon", "name"),
    [
        ("2/255", "linf", 2 / 255, "linf:2/255"),
        ("linf:0.5/255", "linf", 0.5 / 255, "linf:0.5/255"),
        ("linf:0.03", "linf", 0.03, "linf:0.03"),
        ("l2:0.5", "l2", 0.5, "l2:0.5"),
        ("l1:1600", "l1", 1600.0, "l1:1600"),
    ],
)
def test_a_budget_is_read_and_named_as_it_is_written(text: str, norm: str, epsilon: float, name: str) -> None:
    budget = budget_from_text(text)
    assert (budget.norm, budget.name) == (norm, name)
    assert budget.epsilon == pytest.approx(epsilon)
    assert budget_from_text(name) == budget


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8", "8 grey levels are written 8/255"),
        ("-2/255", "epsilon must be above 0"),
        ("0", "epsilon must be above 0"),
        ("l3:1", "norm must be one of linf, l2, l1; got 'l3'"),
        ("2/0", "a number or a fraction; got '2/0'"),
        ("much", r"written \[NORM:\]EPSILON"),
        ("l2:nan", r"written \[NORM:\]EPSILON"),
    ],
)
def test_what_is_no_budget_is_refused_with_the_way_to_write_it(text: str, message: str) -> None:
    with pytest.raises(NoiseError, match=message):
        budget_from_text(text)


@given(st.sampled_from(NORMS), st.floats(0.0005, 0.2), st.integers(0, 2**32 - 1))
def test_pictures_rounded_to_levels_stay_within_their_budget(norm: str, epsilon: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    budget = Budget(norm, epsilon * {"linf": 1, "l2": 10, "l1": 100}[norm])
    originals = rng.integers(0, 256, (4, 3, 5, 5), dtype=np.uint8)
    start = (originals / 255).astype(np.float32)
    noise = rng.normal(size=start.shape)
    noise *= budget.epsilon / Budget(norm, 0.5).distance(noise, np.zeros_like(noise))[:, None, None, None]
    attacked = np.clip(start + noise, 0, 1).astype(np.float32)
    levels = levels_from_attacked(attacked, originals, budget)
    assert budget.holds((levels / 255).astype(np.float32), start).all()


def test_whole_levels_survive_rounding_and_half_a_level_does_not() -> None:
    originals = np.full((1, 3, 4, 4), 100, np.uint8)
    two, half = budget_from_text("2/255"), budget_from_text("0.5/255")
    plus = ((originals + np.float32(2)) / 255).astype(np.float32)
    assert (levels_from_attacked(plus, originals, two) == 102).all()
    plus = ((originals + np.float32(0.5)) / 255).astype(np.float32)
    assert (levels_from_attacked(plus, originals, half) == 100).all()
    assert half.below_a_level
    assert not two.below_a_level


def test_a_picture_outside_of_its_budget_or_of_the_range_is_seen() -> None:
    start = np.full((3, 3, 2, 2), 0.99, np.float32)
    moved = start.copy()
    moved[0] -= 0.02
    moved[1, 0, 0, 0] = 1.001
    assert budget_from_text("0.01").holds(moved, start).tolist() == [False, False, True]
