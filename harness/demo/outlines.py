"""The sixteen classes of the demo pictures, each a family of outlines in unit coordinates.

An outline is a list of closed contours, float64 arrays of shape [points, 2] with x before y, that
fit the unit circle around the origin.  Contours fill by the even-odd rule: a second one is a hole.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Contour = npt.NDArray[np.float64]
Outline = list[Contour]


def polar(radius: float | npt.NDArray[np.float64], angle: npt.NDArray[np.float64]) -> Contour:
    """Points [points, 2] at the given radii and angles (radians)."""
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def circle(radius: float) -> Contour:
    """A circle around the origin as a polygon fine enough to look round."""
    return polar(radius, np.linspace(0.0, 2.0 * np.pi, 72, endpoint=False))


def polygon(sides: int) -> Contour:
    """A regular polygon with its corners on the unit circle."""
    return polar(1.0, np.linspace(0.0, 2.0 * np.pi, sides, endpoint=False))


def blob(rng: np.random.Generator) -> Outline:
    """A smooth irregular outline of no class, for clutter."""
    angle = np.linspace(0.0, 2.0 * np.pi, 72, endpoint=False)
    radius = np.full_like(angle, 0.75)
    for harmonic in (2, 3, 4):
        radius += rng.uniform(0.0, 0.12) * np.cos(harmonic * angle + rng.uniform(0.0, 2.0 * np.pi))
    return [polar(radius, angle)]


def _arrow(rng: np.random.Generator) -> Outline:
    shaft, neck = rng.uniform(0.14, 0.22), rng.uniform(0.0, 0.25)
    head = rng.uniform(0.55, 0.7)
    upper = [(-0.95, shaft), (neck, shaft), (neck, head), (1.0, 0.0)]
    lower = [(x, -y) for x, y in reversed(upper[:-1])]
    return [np.array(upper + lower)]


def _bolt(rng: np.random.Generator) -> Outline:
    step = rng.uniform(0.08, 0.16)
    half = [(0.3, -0.95), (-0.5, step), (-0.03, step)]
    return [np.array(half + [(-x, -y) for x, y in half])]


def _crescent(rng: np.random.Generator) -> Outline:
    """The unit disc less a disc of radius `inner` centred at x = `shift`."""
    inner, shift = rng.uniform(0.76, 0.86), rng.uniform(0.42, 0.55)
    horn = np.arccos((1.0 - inner**2 + shift**2) / (2.0 * shift))
    mouth = np.arctan2(np.sin(horn), np.cos(horn) - shift)
    outer_arc = polar(1.0, np.linspace(horn, 2.0 * np.pi - horn, 60))
    inner_arc = polar(inner, np.linspace(2.0 * np.pi - mouth, mouth, 60)) + np.array([shift, 0.0])
    return [np.concatenate([outer_arc, inner_arc])]


def _cross(rng: np.random.Generator) -> Outline:
    arm = rng.uniform(0.2, 0.31)
    quarter = np.array([(0.95, -arm), (0.95, arm), (arm, arm)])
    turn = np.array([(0.0, 1.0), (-1.0, 0.0)])
    return [np.concatenate([quarter @ np.linalg.matrix_power(turn, turns) for turns in range(4)])]


def _disc(rng: np.random.Generator) -> Outline:
    return [circle(rng.uniform(0.88, 0.98))]


def _drop(rng: np.random.Generator) -> Outline:
    angle = np.linspace(0.0, 2.0 * np.pi, 72, endpoint=False)
    width = rng.uniform(0.75, 0.95) * np.sin(angle) * np.sin(angle / 2.0) ** 1.6
    return [np.stack([np.cos(angle), width], axis=1)]


def _gear(rng: np.random.Generator) -> Outline:
    teeth, root = int(rng.integers(8, 12)), rng.uniform(0.72, 0.78)
    profile = np.array([root, 1.0, 1.0, root])
    phase = np.array([0.0, 0.15, 0.45, 0.6])
    angle = (np.arange(teeth)[:, None] + phase).ravel() * (2.0 * np.pi / teeth)
    return [polar(np.tile(profile, teeth), angle), circle(rng.uniform(0.2, 0.32))]


def _half_disc(rng: np.random.Generator) -> Outline:
    return [polar(1.0, np.linspace(0.0, np.pi, 48)) - [0.0, rng.uniform(0.35, 0.45)]]


def _heart(rng: np.random.Generator) -> Outline:
    angle = np.linspace(0.0, 2.0 * np.pi, 72, endpoint=False)
    x = 16.0 * np.sin(angle) ** 3
    y = 13.0 * np.cos(angle) - 5.0 * np.cos(2.0 * angle) - 2.0 * np.cos(3.0 * angle) - np.cos(4.0 * angle)
    return [np.stack([x * rng.uniform(0.95, 1.1), y + 2.5], axis=1) / 17.0]


def _leaf(rng: np.random.Generator) -> Outline:
    """A lens with two pointed ends."""
    along = np.linspace(-1.0, 1.0, 40)
    half_width = rng.uniform(0.36, 0.5) * (1.0 - along**2)
    upper = np.stack([along, half_width], axis=1)
    return [np.concatenate([upper, upper[::-1] * [1.0, -1.0]])]


def _nut(rng: np.random.Generator) -> Outline:
    return [polygon(6), circle(rng.uniform(0.38, 0.5))]


def _pentagon(rng: np.random.Generator) -> Outline:
    return [polygon(5) * rng.uniform(0.9, 1.0)]


def _ring(rng: np.random.Generator) -> Outline:
    return [circle(0.97), circle(rng.uniform(0.48, 0.66))]


def _square(rng: np.random.Generator) -> Outline:
    return [polygon(4) * rng.uniform(0.9, 1.0)]


def _star(rng: np.random.Generator) -> Outline:
    angle = np.linspace(0.0, 2.0 * np.pi, 10, endpoint=False)
    return [polar(np.tile([1.0, rng.uniform(0.4, 0.5)], 5), angle)]


def _triangle(rng: np.random.Generator) -> Outline:
    return [polygon(3) * rng.uniform(0.9, 1.0)]


_FAMILIES: dict[str, Callable[[np.random.Generator], Outline]] = {
    "arrow": _arrow,
    "bolt": _bolt,
    "crescent": _crescent,
    "cross": _cross,
    "disc": _disc,
    "drop": _drop,
    "gear": _gear,
    "half_disc": _half_disc,
    "heart": _heart,
    "leaf": _leaf,
    "nut": _nut,
    "pentagon": _pentagon,
    "ring": _ring,
    "square": _square,
    "star": _star,
    "triangle": _triangle,
}

CLASSES: tuple[str, ...] = tuple(sorted(_FAMILIES))


def outline(class_index: int, rng: np.random.Generator) -> Outline:
    """One outline of the class at `class_index` in CLASSES, with proportions taken from `rng`."""
    if not 0 <= class_index < len(CLASSES):
        raise ValueError(
            f"expected a class index from 0 to {len(CLASSES) - 1}, got {class_index}; take it from CLASSES.index(name)"
        )
    return _FAMILIES[CLASSES[class_index]](rng)
