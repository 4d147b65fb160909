"""Elementwise operators, and those that choose or convert."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional

from exporters.twin.node import DTYPES, Node, Operator
from exporters.twin.straight_through import rounded_through


def plain(function: Callable[..., Tensor]) -> Operator:
    """An operator without attributes, as torch has it."""
    return lambda node, *values: function(*values)


def rounding(function: Callable[[Tensor], Tensor]) -> Operator:
    """An operator that rounds; the gradient passes straight through."""
    return lambda node, x: rounded_through(x, function(x))


def gathered(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """An operator of any number of inputs, two of them at a time."""
    return lambda node, *values: functools.reduce(function, values)


def add(node: Node, left: Tensor, right: Tensor) -> Tensor:
    """The sum."""
    return left + right


def divide(node: Node, left: Tensor, right: Tensor) -> Tensor:
    """The quotient; of integers the whole part, towards zero."""
    return left / right if left.is_floating_point() else torch.div(left, right, rounding_mode="trunc")


def modulo(node: Node, left: Tensor, right: Tensor) -> Tensor:
    """The remainder, with the sign of the divisor, or of the dividend where ``fmod`` is set."""
    return torch.fmod(left, right) if node.get("fmod", 0) else torch.remainder(left, right)


def power(node: Node, base: Tensor, exponent: Tensor) -> Tensor:
    """A power, in the type of its base."""
    return torch.pow(base, exponent).to(base.dtype)


def mean(node: Node, *values: Tensor) -> Tensor:
    """The mean of any number of inputs."""
    return functools.reduce(torch.add, values) / len(values)


def clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """The values within bounds, which were attributes before opset 11."""
    if node.opset < 11:
        return torch.clamp(x, node.get("min", None), node.get("max", None)) if node.attributes else x
    if low is not None:
        x = torch.maximum(x, low) if low.numel() > 1 else torch.clamp(x, min=low.reshape(()))
    return x if high is None else torch.clamp(x, max=high.reshape(()))


def leaky_relu(node: Node, x: Tensor) -> Tensor:
    """``alpha * x`` below zero."""
    return functional.leaky_relu(x, node.get("alpha", 0.01))


def elu(node: Node, x: Tensor) -> Tensor:
    """``alpha * (exp(x) - 1)`` below zero."""
    return functional.elu(x, node.get("alpha", 1.0))


def celu(node: Node, x: Tensor) -> Tensor:
    """``alpha * (exp(x / alpha) - 1)`` below zero."""
    return functional.celu(x, node.get("alpha", 1.0))


def selu(node: Node, x: Tensor) -> Tensor:
    """``gamma * alpha * (exp(x) - 1)`` below zero, ``gamma * x`` above."""
    alpha, gamma = node.get("alpha", 1.67326319217681884765625), node.get("gamma", 1.05070102214813232421875)
    return functional.elu(x, alpha) * float(gamma)


def prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    """``slope * x`` below zero."""
    return torch.where(x < 0, x * slope, x)


def thresholded_relu(node: Node, x: Tensor) -> Tensor:
    """``x`` above ``alpha``, zero elsewhere."""
    return x * (x > float(node.get("alpha", 1.0)))


def hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    """``alpha * x + beta`` within 0 and 1."""
    return torch.clamp(x * node.get("alpha", 0.2) + node.get("beta", 0.5), 0, 1)


def hard_swish(node: Node, x: Tensor) -> Tensor:
    """``x * clip(x / 6 + 1/2, 0, 1)``."""
    return x * torch.clamp(x / 6 + 0.5, 0, 1)


def swish(node: Node, x: Tensor) -> Tensor:
    """``x * sigmoid(alpha * x)``: Swish of ONNX, QuickGelu of ONNX Runtime."""
    return x * torch.sigmoid(x * node.get("alpha", 1.702 if node.domain else 1.0))


def gelu(node: Node, x: Tensor) -> Tensor:
    """``x`` times the normal distribution function of ``x``, or its approximation by tanh."""
    return functional.gelu(x, approximate=node.get("approximate", "none"))


def bias_gelu(node: Node, x: Tensor, bias: Tensor) -> Tensor:
    """Gelu of a sum."""
    return functional.gelu(x + bias)


def fast_gelu(node: Node, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Gelu by tanh, of a sum where there is a bias."""
    return functional.gelu(x if bias is None else x + bias, approximate="tanh")


def cast(node: Node, x: Tensor) -> Tensor:
    """Another type. Between floats the gradient passes; a cast to integers has none."""
    kind = int(node.attributes["to"])
    if kind not in DTYPES or kind in (TensorProto.INT4, TensorProto.UINT4):
        raise node.refusal(f"the type {TensorProto.DataType.Name(kind)}")
    return x.to(DTYPES[kind])


def cast_like(node: Node, x: Tensor, like: Tensor) -> Tensor:
    """The type of another tensor."""
    return x.to(like.dtype)


def where(node: Node, condition: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """``left`` where the condition holds, else ``right``."""
    return torch.where(condition, left, right)


def identity(node: Node, x: Tensor) -> Tensor:
    """The input."""
    return x


def dropout(node: Node, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None) -> Tensor:
    """The input: a network that is attacked does not learn."""
    del ratio
    if training is not None and training.item():
        raise node.refusal("training_mode")
    return x
