"""The shortest way onto a hyperplane, against general solvers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

torch = pytest.importorskip("torch", reason="projections are made of tensors")

from noise.adversarial.base import NORMS  # noqa: E402 - behind the skip
from noise.adversarial.gradient.hyperplane import onto_hyperplane  # noqa: E402

ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}
VALUES = 9


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    points = np.clip(rng.uniform(-0.2, 1.2, (5, VALUES)), 0, 1)
    normals = rng.normal(size=(5, VALUES))
    normals[:, 3] = 0
    return points, normals


def shortest_by_solver(point: np.ndarray, normal: np.ndarray, gap: float, norm: str) -> float:
    bounds = [(-value, 1 - value) for value in point]
    if norm == "l2":
        solved = minimize(
            lambda change: change @ change / 2,
            np.zeros(VALUES),
            jac=lambda change: change,
            bounds=bounds,
            constraints={"type": "eq", "fun": lambda change: normal @ change - gap},
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-14},
        )
        return float(np.linalg.norm(solved.x))
    # Changes, then what bounds their sizes: one number for all of them in l-inf, one for each in l1.
    sizes = 1 if norm == "linf" else VALUES
    above = np.hstack([np.eye(VALUES), -np.ones((VALUES, 1)) if norm == "linf" else -np.eye(VALUES)])
    below = np.hstack([-np.eye(VALUES), above[:, VALUES:]])
    solved = linprog(
        np.concatenate([np.zeros(VALUES), np.ones(sizes)]),
        A_ub=np.vstack([above, below]),
        b_ub=np.zeros(2 * VALUES),
        A_eq=np.concatenate([normal, np.zeros(sizes)])[None],
        b_eq=[gap],
        bounds=bounds + [(0, None)] * sizes,
    )
    return float(solved.fun)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("share", [-0.9, -0.2, 0.05, 0.6])
def test_way_is_as_short_as_a_solver_finds_it(norm: str, share: float) -> None:
    points, normals = drawn(2)
    towards = np.where(normals * np.sign(share) > 0, 1 - points, -points)
    gaps = abs(share) * (towards * normals).sum(1)
    found = np.asarray(onto_hyperplane(*map(torch.from_numpy, (points, normals, gaps)), norm))
    np.testing.assert_allclose((found * normals).sum(1), gaps, atol=1e-9)
    assert (points + found).min() >= 0
    assert (points + found).max() <= 1
    for point, normal, gap, way in zip(points, normals, gaps, found, strict=True):
        assert np.linalg.norm(way, ORDERS[norm]) == pytest.approx(shortest_by_solver(point, normal, gap, norm), 1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_way_that_the_box_does_not_allow_leads_to_its_corner(norm: str) -> None:
    points, normals = drawn(3)
    corner = np.where(normals > 0, 1.0, np.where(normals < 0, 0.0, points))
    gaps = torch.full((len(points),), 1e6, dtype=torch.float64)
    found = np.asarray(onto_hyperplane(torch.from_numpy(points), torch.from_numpy(normals), gaps, norm))
    np.testing.assert_allclose(points + found, corner, atol=1e-9)
