"""Planes: padding, and enlarging or shrinking."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from exporters.twin.node import Node, integers

Floats = npt.NDArray[np.float64]


def pad(
    node: Node, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """A border of one value, of the edge, of the mirrored plane, or of the plane's other side."""
    amounts = integers(node.get("pads", node.get("paddings", ())) if pads is None else pads)
    along = list(range(x.dim())) if axes is None else [each % x.dim() for each in integers(axes)]
    half = len(along)
    mode = node.get("mode", "constant")
    if mode == "constant":
        both = {axis: (amounts[index], amounts[index + half]) for index, axis in enumerate(along)}
        flat = [each for axis in reversed(range(x.dim())) for each in both.get(axis, (0, 0))]
        filling = node.get("value", 0.0) if value is None else value.item()
        return functional.pad(x, flat, value=filling)
    if mode not in ("edge", "reflect", "wrap"):
        raise node.refusal(f"the mode {mode}")
    for index, axis in enumerate(along):
        before, behind = amounts[index], amounts[index + half]
        if before or behind:
            places: Any = np.pad(np.arange(x.shape[axis]), (max(before, 0), max(behind, 0)), mode)
            places = places[max(-before, 0) : len(places) - max(-behind, 0)]
            x = x.index_select(axis, torch.from_numpy(places.astype(np.int64)).to(x.device))
    return x


def upsample(node: Node, x: Tensor, scales: Tensor | None = None) -> Tensor:
    """Resize as it was before opset 10: coordinates that start at the corner, and nearest rounds down."""
    factors = [float(each) for each in (node.get("scales", ()) if scales is None else scales.tolist())]
    mode = {"nearest": "nearest", "linear": "linear", "bilinear": "linear"}.get(node.get("mode", "nearest"))
    if mode is None:
        raise node.refusal(f"the mode {node.get('mode', '')}")
    for axis, factor in enumerate(factors):
        coordinates = np.arange(math.floor(x.shape[axis] * factor)) / factor
        x = _along(x, axis, coordinates, _matrix(node, mode), np.floor)
    return x


def resize(
    node: Node,
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
    *others: Tensor,
) -> Tensor:
    """Nearest, linear or cubic, one axis after the other, with all coordinates of ONNX but those of a region."""
    del others
    if node.opset < 11:
        return upsample(node, x, roi)  # scales were the second input then
    if node.get("antialias", 0) or node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.refusal("antialias" if node.get("antialias", 0) else "a policy for the aspect ratio")
    along = [each % x.dim() for each in integers(node.get("axes", range(x.dim())))]
    mode, rounding = node.get("mode", "nearest"), _rounding(node)
    for index, axis in enumerate(along):
        length = x.shape[axis]
        if sizes is not None and sizes.numel():
            target = integers(sizes)[index]
            factor = target / length
        else:
            factor = float(scales.tolist()[index]) if scales is not None else 1.0
            target = math.floor(length * factor)
        if target != length or factor != 1:
            coordinates = _coordinates(node, length, target, factor)
            x = _along(x, axis, coordinates, _matrix(node, mode), rounding)
    return x


def _coordinates(node: Node, length: int, target: int, factor: float) -> Floats:
    """Where in the input each place of the output lies."""
    places = np.arange(target, dtype=np.float64)
    match node.get("coordinate_transformation_mode", "half_pixel"):
        case "half_pixel":
            return (places + 0.5) / factor - 0.5
        case "pytorch_half_pixel":
            return (places + 0.5) / factor - 0.5 if target > 1 else places * 0
        case "align_corners":
            return places * (length - 1) / (factor * length - 1) if target > 1 else places * 0
        case "asymmetric":
            return places / factor
        case "half_pixel_symmetric":
            centre = length / 2 * (1 - target / (factor * length))
            return centre + (places + 0.5) / factor - 0.5
        case other:
            raise node.refusal(f"the coordinates {other}")


def _rounding(node: Node) -> Callable[[Floats], Floats]:
    mode = node.get("nearest_mode", "round_prefer_floor")
    known: dict[str, Callable[[Floats], Floats]] = {
        "round_prefer_floor": lambda places: np.ceil(places - 0.5),
        "round_prefer_ceil": lambda places: np.floor(places + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    if mode not in known:
        raise node.refusal(f"the rounding {mode}")
    return known[mode]


def _matrix(node: Node, mode: str) -> Callable[[Floats, int], Floats] | None:
    """The function that makes the weights [target, length] of an axis; ``None`` for nearest."""
    if mode == "nearest":
        return None
    if mode == "linear":
        return lambda coordinates, length: _weights(coordinates, length, _linear, (0, 1), outside=False)
    if mode == "cubic":
        factor = float(node.get("cubic_coeff_a", -0.75))
        outside = bool(node.get("exclude_outside", 0))
        return lambda coordinates, length: _weights(
            coordinates, length, lambda distance: _cubic(distance, factor), (-1, 0, 1, 2), outside
        )
    raise node.refusal(f"the mode {mode}")


def _weights(
    coordinates: Floats, length: int, kernel: Callable[[Floats], Floats], taps: tuple[int, ...], outside: bool
) -> Floats:
    """What each input place adds to each output place; taps beyond the border are its edge, or nothing."""
    if len(taps) == 2:
        coordinates = np.clip(coordinates, 0, length - 1)
    base = np.floor(coordinates)
    weights = np.zeros((len(coordinates), length))
    rows = np.arange(len(coordinates))
    for tap in taps:
        places = base + tap
        values = kernel(np.abs(coordinates - places))
        if outside:
            values = np.where((places >= 0) & (places < length), values, 0)
        np.add.at(weights, (rows, np.clip(places, 0, length - 1).astype(int)), values)
    return weights / weights.sum(axis=1, keepdims=True) if outside else weights


def _linear(distance: Floats) -> Floats:
    return np.clip(1 - distance, 0, None)


def _cubic(distance: Floats, factor: float) -> Floats:
    near = ((factor + 2) * distance - (factor + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * factor - 4 * factor
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def _along(
    x: Tensor,
    axis: int,
    coordinates: Floats,
    matrix: Callable[[Floats, int], Floats] | None,
    rounding: Callable[[Floats], Floats],
) -> Tensor:
    if matrix is None:
        places = np.clip(rounding(coordinates), 0, x.shape[axis] - 1).astype(np.int64)
        return x.index_select(axis, torch.from_numpy(places).to(x.device))
    weights = torch.from_numpy(matrix(coordinates, x.shape[axis])).to(x.device, x.dtype)
    return (x.movedim(axis, -1) @ weights.T).movedim(-1, axis)
