"""Integer kernels in NumPy, sharing nothing with an engine: sums in exact integers, then one float32 multiplication.

Requantisation is what ONNX Runtime computes: the multiplier is ``x_scale * w_scale / y_scale`` in float32, the sum is
converted to float32, the product is rounded half to even and saturates to the output's type.

``saturating`` is the arithmetic of VPMADDUBSW: the products of two neighbouring terms are added in 16 bits that
saturate. Terms are taken in the order kernel row, kernel column, channel. Zero points are subtracted behind the sum, so
they do not change which pairs saturate; depthwise convolutions multiply in wider integers and never do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

Array = npt.NDArray[Any]
Inputs = list[Array | None]


def evaluate(node: onnx.NodeProto, inputs: Inputs, *, saturating: bool = False) -> Array:
    """The output of one node of an optimised graph.

    Args:
        node: one of `OPERATORS`.
        inputs: its inputs in order, ``None`` for those left out.
        saturating: pairs of products saturate at 16 bits.
    """
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    return OPERATORS[node.op_type](inputs, attributes, saturating)


def dot(left: Array, right: Array, saturating: bool) -> Array:
    """Integer sums of products, int64 [rows, columns], of [rows, terms] and [terms, columns]."""
    if not (saturating and left.dtype == np.uint8 and right.dtype == np.int8):
        # float64 holds every integer below 2 ** 53, and is fast.
        return (left.astype(np.float64) @ right.astype(np.float64)).astype(np.int64)
    odd = left.shape[1] % 2
    wide_left = np.pad(left.astype(np.int32), ((0, 0), (0, odd)))
    wide_right = np.pad(right.astype(np.int32), ((0, odd), (0, 0)))
    total = np.zeros((len(left), right.shape[1]), np.int64)
    for k in range(0, wide_left.shape[1], 2):
        pair = wide_left[:, k : k + 1] * wide_right[k] + wide_left[:, k + 1 : k + 2] * wide_right[k + 1]
        total += np.clip(pair, -32768, 32767)
    return total


def product(left: Array, left_zero: Array, right: Array, right_zero: Array, saturating: bool) -> Array:
    """Sums of products of what the integers stand for; only the raw integers meet in the kernel's pairs."""
    columns = right.astype(np.int64).sum(axis=0) * int(left_zero)
    rows = left.astype(np.int64).sum(axis=1, keepdims=True) * right_zero.astype(np.int64)
    both = left.shape[1] * int(left_zero) * right_zero.astype(np.int64)
    return dot(left, right, saturating) - columns - rows + both


def requantised(total: Array, multiplier: Array, zero: Array) -> Array:
    """int32 sums as the output's type."""
    limits = np.iinfo(zero.dtype)
    scaled = np.rint(total.astype(np.int32).astype(np.float32) * multiplier.astype(np.float32))
    return np.clip(scaled + np.float32(zero), limits.min, limits.max).astype(zero.dtype)


def _given(value: Array | None, otherwise: Any) -> Array:
    return np.asarray(otherwise) if value is None else value


def qlinear_conv(inputs: Inputs, attributes: Mapping[str, Any], saturating: bool) -> Array:
    """QLinearConv, of ONNX and, with ``channels_last``, of ONNX Runtime."""
    padded_inputs = [*inputs, *[None] * (9 - len(inputs))]
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (_given(each, 0) for each in padded_inputs[:8])
    bias = _given(padded_inputs[8], np.zeros(len(w), np.int32))
    last = bool(attributes.get("channels_last", 0))
    planes = x if last else x.transpose(0, 2, 3, 1)
    top, left, bottom, right = attributes.get("pads", [0] * 4)
    planes = np.pad(planes, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=x_zero)
    groups, height, width = attributes.get("group", 1), *w.shape[2:]
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    windows = _windows(planes, (height, width), strides, dilations)
    batch, rows, columns = windows.shape[:3]
    zeros = np.broadcast_to(w_zero, len(w))
    depthwise = w.shape[1] == 1 and groups == len(w)
    totals = []
    for group in range(groups):
        mine = slice(group * len(w) // groups, (group + 1) * len(w) // groups)
        channels = slice(group * w.shape[1], (group + 1) * w.shape[1])
        terms = windows[..., channels].reshape(batch * rows * columns, -1)
        weights = w[mine].transpose(2, 3, 1, 0).reshape(terms.shape[1], -1)
        totals.append(product(terms, x_zero, weights, zeros[mine], saturating and not depthwise))
    total = np.concatenate(totals, axis=1) + bias
    y = requantised(total, x_scale * w_scale / y_scale, y_zero).reshape(batch, rows, columns, -1)
    return y if last else y.transpose(0, 3, 1, 2)


def _windows(planes: Array, kernel: tuple[int, int], strides: list[int], dilations: list[int]) -> Array:
    """[batch, rows, columns, kernel rows, kernel columns, channels]."""
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    seen = np.lib.stride_tricks.sliding_window_view(planes, reach, axis=(1, 2))
    seen = seen[:, :: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]]
    return seen.transpose(0, 1, 2, 4, 5, 3)


def qgemm(inputs: Inputs, attributes: Mapping[str, Any], saturating: bool) -> Array:
    """com.microsoft.QGemm; without an output scale its output is float32."""
    padded_inputs = [*inputs, *[None] * (9 - len(inputs))]
    a, a_scale, a_zero, b, b_scale, b_zero = (_given(each, 0) for each in padded_inputs[:6])
    bias, y_scale, y_zero = padded_inputs[6:]
    a = a.T if attributes.get("transA", 0) else a
    b = b.T if attributes.get("transB", 0) else b
    total = product(a, a_zero, b, np.broadcast_to(b_zero, b.shape[1]), saturating) + _given(bias, 0)
    multiplier = np.float32(attributes.get("alpha", 1.0)) * (a_scale * b_scale)
    if y_scale is None:
        return total.astype(np.int32).astype(np.float32) * multiplier
    return requantised(total, multiplier / y_scale, _given(y_zero, np.uint8(0)))


def qlinear_matmul(inputs: Inputs, attributes: Mapping[str, Any], saturating: bool) -> Array:
    """QLinearMatMul of two matrices."""
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (_given(each, 0) for each in inputs)
    total = product(a, a_zero, b, np.broadcast_to(b_zero, b.shape[1]), saturating)
    return requantised(total, a_scale * b_scale / y_scale, y_zero)


def matmul_integer(inputs: Inputs, attributes: Mapping[str, Any], saturating: bool) -> Array:
    """MatMulInteger of two matrices."""
    a, b, a_zero, b_zero = (_given(each, 0) for each in [*inputs, *[None] * (4 - len(inputs))])
    return product(a, a_zero, b, np.broadcast_to(b_zero, b.shape[1]), saturating).astype(np.int32)


OPERATORS: Mapping[str, Callable[[Inputs, Mapping[str, Any], bool], Array]] = {
    "QLinearConv": qlinear_conv,
    "QGemm": qgemm,
    "QLinearMatMul": qlinear_matmul,
    "MatMulInteger": matmul_integer,
}
