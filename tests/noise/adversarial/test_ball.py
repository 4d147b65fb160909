"""Projections, steps and extreme points of the three balls, against general solvers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

torch = pytest.importorskip("torch", reason="balls are made of tensors")

from noise.adversarial.base import NORMS, Budget  # noqa: E402 - behind the skip
from noise.adversarial.gradient.ball import Ball, ball_of  # noqa: E402

SHAPE = (3, 2, 2)
BUDGETS = {"linf": 0.3, "l2": 0.6, "l1": 1.5}


def pictures(seed: int, count: int = 4) -> np.ndarray:
    """Some values stand at the edge of the box, where projections are hard."""
    drawn = np.random.default_rng(seed).uniform(-0.3, 1.3, (count, *SHAPE))
    return np.clip(drawn, 0, 1).astype(np.float32)


def moved(seed: int, originals: np.ndarray, size: float) -> np.ndarray:
    return (originals + np.random.default_rng(seed + 1).normal(0, size, originals.shape)).astype(np.float32)


def projected(ball: Ball, points: np.ndarray, originals: np.ndarray) -> np.ndarray:
    return np.asarray(ball.project(torch.from_numpy(points), torch.from_numpy(originals)))


def nearest_by_solver(point: np.ndarray, original: np.ndarray, budget: Budget) -> np.ndarray:
    """The quadratic programme as such: changes up and down apart, so that l1 is linear in them."""
    wanted, start = (point - original).ravel().astype(float), original.ravel().astype(float)
    values = len(wanted)

    def distance(change: np.ndarray) -> tuple[float, np.ndarray]:
        rest = change[:values] - change[values:] - wanted
        return float(rest @ rest) / 2, np.concatenate([rest, -rest])

    limit = {
        "linf": lambda change: budget.epsilon - (change[:values] + change[values:]),
        "l2": lambda change: budget.epsilon**2 - np.square(change[:values] - change[values:]).sum(),
        "l1": lambda change: budget.epsilon - change.sum(),
    }[budget.norm]
    found = minimize(
        distance,
        np.zeros(2 * values),
        jac=True,
        bounds=[(0, 1 - value) for value in start] + [(0, value) for value in start],
        constraints={"type": "ineq", "fun": limit},
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    return np.asarray(start + found.x[:values] - found.x[values:]).reshape(original.shape)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [0.05, 0.3, 2.0])
def test_projection_is_the_nearest_point_that_a_solver_finds(norm: str, size: float) -> None:
    budget, originals = Budget(norm, BUDGETS[norm]), pictures(3)
    points = moved(3, originals, size)
    for point, original, found in zip(points, originals, projected(ball_of(budget), points, originals), strict=True):
        np.testing.assert_allclose(found, nearest_by_solver(point, original, budget), atol=2e-4)


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    size=st.sampled_from([1e-4, 0.03, 0.5, 1e4]),
    share=st.floats(1e-3, 1),
)
def test_projection_is_within_the_budget_and_leaves_what_is_within_alone(
    norm: str, seed: int, size: float, share: float
) -> None:
    budget, originals = Budget(norm, share * BUDGETS[norm]), pictures(seed)
    ball = ball_of(budget)
    found = projected(ball, moved(seed, originals, size), originals)
    assert budget.holds(found, originals).all()
    np.testing.assert_allclose(projected(ball, found, originals), found, atol=1e-6)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 1 / 255), ("l2", 0.5), ("l1", 20.0)])
def test_rounding_of_many_small_changes_does_not_leave_the_budget(norm: str, epsilon: float) -> None:
    originals = np.random.default_rng(0).uniform(0, 1, (2, 3, 224, 224)).astype(np.float32)
    budget = Budget(norm, epsilon)
    found = projected(ball_of(budget), moved(0, originals, 1e-2), originals)
    assert budget.holds(found, originals).all()
    np.testing.assert_allclose(budget.distance(found, originals), epsilon, rtol=2e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_start_is_within_the_budget_and_each_picture_has_its_own(norm: str) -> None:
    budget, originals = Budget(norm, BUDGETS[norm]), pictures(5)
    rngs = [np.random.default_rng(seed) for seed in (1, 2, 3, 4)]
    started = np.asarray(ball_of(budget).start(torch.from_numpy(originals), rngs))
    assert budget.holds(started, originals).all()
    alone = ball_of(budget).start(torch.from_numpy(originals[2:3]), [np.random.default_rng(3)])
    np.testing.assert_array_equal(np.asarray(alone)[0], started[2])
    assert len({(picture - original).tobytes() for picture, original in zip(started, originals, strict=True)}) == 4


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_extreme_point_is_the_optimum_of_the_linear_programme(norm: str) -> None:
    budget, original = Budget(norm, BUDGETS[norm]), pictures(8, 1)
    gradient = np.random.default_rng(9).normal(size=original.shape).astype(np.float32)
    start, slope = original.ravel().astype(float), gradient.ravel().astype(float)
    if norm == "linf":
        bounds = [(max(-budget.epsilon, -value), min(budget.epsilon, 1 - value)) for value in start]
        best = -linprog(-slope, bounds=bounds).fun
    else:
        bounds = [(0, 1 - value) for value in start] + [(0, value) for value in start]
        best = -linprog(
            np.concatenate([-slope, slope]), A_ub=np.ones((1, len(bounds))), b_ub=[budget.epsilon], bounds=bounds
        ).fun
    found = np.asarray(ball_of(budget).extreme(torch.from_numpy(original), torch.from_numpy(gradient)))
    assert budget.holds(found, original).all()
    assert float((found - original).ravel() @ slope) == pytest.approx(best, rel=1e-5)


def test_extreme_point_in_l2_is_the_optimum_of_the_conic_programme() -> None:
    budget, original = Budget("l2", 0.6), pictures(8, 1)
    gradient = np.random.default_rng(9).normal(size=original.shape).astype(np.float32)
    start, slope = original.ravel().astype(float), gradient.ravel().astype(float)
    solved = minimize(
        lambda change: -change @ slope,
        np.zeros_like(start),
        jac=lambda change: -slope,
        bounds=[(-value, 1 - value) for value in start],
        constraints={"type": "ineq", "fun": lambda change: budget.epsilon**2 - change @ change},
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    found = np.asarray(ball_of(budget).extreme(torch.from_numpy(original), torch.from_numpy(gradient)))
    assert budget.holds(found, original).all()
    assert float((found - original).ravel() @ slope) == pytest.approx(-solved.fun, rel=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_step_has_the_length_that_was_asked_for(norm: str) -> None:
    originals = torch.full((1, *SHAPE), 0.5)
    gradients = torch.from_numpy(np.random.default_rng(4).normal(size=(1, *SHAPE)).astype(np.float32))
    stepped = ball_of(Budget(norm, 1.0)).step(originals, gradients, torch.tensor([0.2]), torch.tensor([0.25]))
    assert Budget(norm, 1.0).distance(np.asarray(stepped), np.asarray(originals))[0] == pytest.approx(0.2, rel=1e-5)
    changed = (stepped - originals).flatten()
    assert (changed * gradients.flatten() >= 0).all()
    if norm == "l1":
        assert int((changed != 0).sum()) == 3


def test_step_in_l1_leaves_to_others_what_the_box_does_not_let_a_value_go() -> None:
    originals = torch.full((1, *SHAPE), 0.5)
    originals[0, 0, 0, 0], originals[0, 0, 0, 1] = 1.0, 0.95
    gradients = torch.full((1, *SHAPE), 0.1)
    gradients[0, 0, 0, :2], gradients[0, 1, 1, 1] = torch.tensor([9.0, 8.0]), -5.0
    stepped = ball_of(Budget("l1", 1.0)).step(originals, gradients, torch.tensor([0.2]), torch.tensor([0.01]))
    changed = (stepped - originals).flatten()
    assert changed.nonzero().flatten().tolist() == [1, 7]
    assert changed[[1, 7]].tolist() == pytest.approx([0.05, -0.15])
