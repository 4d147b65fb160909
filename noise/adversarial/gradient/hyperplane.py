"""The shortest way onto a hyperplane within the box of pictures, in l-inf, l2 and l1."""

from __future__ import annotations

import torch
from torch import Tensor

from noise.adversarial.base import L1, L2

ROUNDS = 100  # far more than ever change anything; a bound for numbers that are none


def onto_hyperplane(points: Tensor, normals: Tensor, gaps: Tensor, norm: str) -> Tensor:
    """Shortest changes d with ``normals · d == gaps`` and ``points + d`` in [0, 1].

    Where the box does not reach the hyperplane, the changes lead to its nearest corner
    (Croce & Hein 2020b, section 2.1).

    Args:
        points, normals: [n, values].
        gaps: [n].
        norm: of `noise.adversarial.base.NORMS`, by which changes are short.

    Returns:
        [n, values] in float64.
    """
    points, normals, gaps = points.double(), normals.double(), gaps.double()
    directions = normals.sign() * gaps.sign()[:, None]
    room = torch.where(directions > 0, 1 - points, points) * (directions != 0)
    gain, wanted = normals.abs(), gaps.abs()
    if norm == L1:
        return directions * _greedily(room, gain, wanted)
    return directions * _evenly(room, gain, wanted, gain if norm == L2 else torch.ones_like(gain))


def _greedily(room: Tensor, gain: Tensor, wanted: Tensor) -> Tensor:
    """In l1: the values with the largest gain first, each as far as it can go."""
    order = gain.argsort(dim=1, descending=True)
    sorted_room, sorted_gain = room.gather(1, order), gain.gather(1, order)
    gained = sorted_room * sorted_gain
    left = (wanted[:, None] - (gained.cumsum(1) - gained)).clamp(min=0)
    used = torch.minimum(sorted_room, torch.where(sorted_gain > 0, left / sorted_gain, 0))
    return torch.zeros_like(room).scatter(1, order, used)


def _evenly(room: Tensor, gain: Tensor, wanted: Tensor, speed: Tensor) -> Tensor:
    """All values at their speeds until the box holds them: at the first time at which the gain is what is wanted.

    The gain is concave in time, so Newton's method comes from below and ends on the very piece.
    """
    time = torch.zeros_like(wanted)
    moved = torch.zeros_like(room)
    for _ in range(ROUNDS):
        free = moved < room
        rate = (free * gain * speed).sum(1)
        missing = wanted - (moved * gain).sum(1)
        going = (missing > 1e-12 * wanted) & (rate > 0)
        if not bool(going.any()):
            break
        time = torch.where(going, time + missing / torch.where(rate > 0, rate, 1), time)
        moved = torch.minimum(time[:, None] * speed, room)
    return moved
