"""Layers as matrix products: ``outputs = rows @ columns`` for each group of channels.

A convolution's columns are the patches that it sees; those of a Gemm or MatMul are its inputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from exporters.blocks import Floats
from exporters.products import Constants, attributes_of

Array = npt.NDArray[Any]


def obstacle(node: onnx.NodeProto, constants: Constants) -> str | None:
    """Why a layer of the float model is no such product, or ``None`` where it is."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return f"{node.op_type} is not written as a product here"
    if any(name and not constants.is_float32(name) for name in node.input[1:]):
        return "its weights or biases are computed"
    given = attributes_of(node)
    dimensions = len(constants.shape(node.input[1]) or ())
    if node.op_type == "Conv" and (dimensions != 4 or given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")):
        return "a convolution that is not of planes, or is padded by auto_pad"
    if node.op_type != "Conv" and dimensions != 2:
        return "its weight is no matrix"
    if given.get("transA") or given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
        return "a Gemm with transA, alpha or beta"
    return None


def rows_of(node: onnx.NodeProto, weight: Array) -> Array:
    """A weight as [groups, outputs, depth] per group."""
    if node.op_type == "Conv":
        groups = attributes_of(node).get("group", 1)
        return weight.reshape(groups, len(weight) // groups, -1)
    return (weight if attributes_of(node).get("transB") else weight.T)[None]


def weight_of(node: onnx.NodeProto, rows: Array, shape: tuple[int, ...]) -> Array:
    """What `rows_of` undoes: a weight of ``shape``."""
    if node.op_type == "Conv" or attributes_of(node).get("transB"):
        return rows.reshape(shape)
    return np.ascontiguousarray(rows[0].T)


def columns_of(node: onnx.NodeProto, shape: tuple[int, ...], inputs: Floats) -> Floats:
    """What a layer with a weight of ``shape`` multiplies its rows with: float32 [groups, depth, places]."""
    if node.op_type != "Conv":
        return np.ascontiguousarray(inputs.reshape(-1, inputs.shape[-1]).T)[None]
    given = attributes_of(node)
    top, left, bottom, right = given.get("pads", (0, 0, 0, 0))
    padded = np.pad(inputs, ((0, 0), (0, 0), (top, bottom), (left, right)))
    down, across = given.get("strides", (1, 1))
    spread = given.get("dilations", (1, 1))
    window = tuple((size - 1) * by + 1 for size, by in zip(shape[2:], spread, strict=True))
    patches = np.lib.stride_tricks.sliding_window_view(padded, window, axis=(2, 3))
    patches = patches[:, :, ::down, ::across, :: spread[0], :: spread[1]]  # [N, C, H, W, height, width]
    groups = given.get("group", 1)
    return np.ascontiguousarray(patches.transpose(1, 4, 5, 0, 2, 3)).reshape(groups, shape[1] * shape[2] * shape[3], -1)


def outputs_of(node: onnx.NodeProto, groups: int, outputs: Floats, bias: Array) -> Floats:
    """A layer's output without its bias: float32 [groups, outputs, places] per group."""
    if node.op_type != "Conv":
        return np.ascontiguousarray((outputs.reshape(-1, outputs.shape[-1]) - bias).T)[None]
    channels = np.moveaxis(outputs, 1, 0).reshape(outputs.shape[1], -1) - np.reshape(bias, (-1, 1))
    return np.ascontiguousarray(channels).reshape(groups, outputs.shape[1] // groups, -1)
