"""Normalisation and reductions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from exporters.twin.node import Node, Operator, integers


def batch_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor, *statistics: Tensor) -> Tensor:
    """By the stored mean and variance. A batch norm that would take those of the batch is refused."""
    if node.get("training_mode", 0):
        raise node.refusal("training_mode")
    mean, variance = statistics
    return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, node.get("epsilon", 1e-5))


def instance_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Each plane by its own mean and variance."""
    return functional.instance_norm(x, weight=scale, bias=bias, eps=node.get("epsilon", 1e-5))


def layer_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """All axes from ``axis`` on by their mean and variance."""
    sides = x.shape[int(node.get("axis", -1)) :]
    shift = None if bias is None else bias.expand(sides)
    return functional.layer_norm(x, sides, scale.expand(sides), shift, node.get("epsilon", 1e-5))


def skip_layer_normalization(
    node: Node, x: Tensor, skip: Tensor, scale: Tensor, shift: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Layer normalisation of a sum, as ONNX Runtime's optimiser writes it."""
    total = x + skip if bias is None else x + skip + bias
    return functional.layer_norm(total, total.shape[-1:], scale, shift, node.get("epsilon", 1e-12))


def rms_normalization(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    """All axes from ``axis`` on by their root mean square."""
    axes = tuple(range(int(node.get("axis", -1)) % x.dim(), x.dim()))
    return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + node.get("epsilon", 1e-5)) * scale


def group_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Groups of channels by their mean and variance; a scale belongs to a group before opset 21, then to a channel."""
    groups = int(node.attributes["num_groups"])
    if node.opset < 21:
        scale, bias = (each.repeat_interleave(x.shape[1] // groups) for each in (scale, bias))
    return functional.group_norm(x, groups, scale, bias, node.get("epsilon", 1e-5))


def local_response_normalization(node: Node, x: Tensor) -> Tensor:
    """By the squares of the neighbouring channels."""
    size, alpha = int(node.attributes["size"]), node.get("alpha", 1e-4)
    return functional.local_response_norm(x, size, alpha, node.get("beta", 0.75), node.get("bias", 1.0))


def lp_normalization(node: Node, x: Tensor) -> Tensor:
    """By the norm along an axis."""
    norm = torch.linalg.vector_norm(x, node.get("p", 2), int(node.get("axis", -1)), keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


def softmax(node: Node, x: Tensor) -> Tensor:
    """Softmax along one axis; before opset 13 along all from ``axis`` on."""
    return _softmax(node, x, torch.softmax)


def log_softmax(node: Node, x: Tensor) -> Tensor:
    """The logarithm of `softmax`."""
    return _softmax(node, x, torch.log_softmax)


def _softmax(node: Node, x: Tensor, function: Callable[[Tensor, int], Tensor]) -> Tensor:
    if node.opset >= 13:
        return function(x, int(node.get("axis", -1)))
    axis = int(node.get("axis", 1)) % x.dim()
    return function(x.flatten(axis), axis).reshape(x.shape)


def reduction(function: Callable[[Tensor, list[int], bool], Tensor], axes_since: int = 18) -> Operator:
    """A reduction, of (values, axes, whether the axes stay).

    Args:
        axes_since: the opset from which the axes are an input and no attribute.
    """

    def reduce(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        stated = node.get("axes", ()) if node.opset < axes_since else axes
        named = [] if stated is None else integers(stated)
        if not named and node.get("noop_with_empty_axes", 0):
            return x
        return function(x, named or list(range(x.dim())), bool(node.get("keepdims", 1)))

    return reduce


def product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The product along axes; torch takes one axis at a time."""
    for axis in sorted((each % x.dim() for each in axes), reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def total(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The sum along axes, in the type of the values."""
    return x.sum(axes, keepdim=keep, dtype=x.dtype)
