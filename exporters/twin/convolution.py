"""Convolutions and pooling, with the borders of ONNX."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from exporters.twin.node import Node, integers

CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
MAXIMA = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
MEANS = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)

# What ONNX Runtime fuses -> its function of the values and the parameters of the node.
ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "": lambda x: x,
    "Relu": functional.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Clip": torch.clamp,
    "LeakyRelu": functional.leaky_relu,
    "HardSigmoid": lambda x, alpha, beta: torch.clamp(x * alpha + beta, 0, 1),
}

Pads = list[tuple[int, int]]


def conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution over one to three axes."""
    axes = _spatial(node, x)
    strides, dilations = _per_axis(node, "strides", axes), _per_axis(node, "dilations", axes)
    pads = _pads(node, x.shape[2:], weight.shape[2:], strides, dilations)
    if all(begin == end for begin, end in pads):
        padding = [begin for begin, _ in pads]
    else:
        x, padding = functional.pad(x, _flat(pads)), [0] * axes
    return CONVOLUTIONS[axes - 1](x, weight, bias, strides, padding, dilations, int(node.get("group", 1)))


def conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The transpose of a convolution; its pads are cut off."""
    axes = _spatial(node, x)
    strides, dilations = _per_axis(node, "strides", axes), _per_axis(node, "dilations", axes)
    more = integers(node.get("output_padding", [0] * axes))
    full = TRANSPOSED[axes - 1](x, weight, None, strides, 0, 0, int(node.get("group", 1)), dilations)
    full = functional.pad(full, _flat([(0, each) for each in more]))
    full_sides = list(full.shape[2:])
    auto = str(node.get("auto_pad", "NOTSET"))
    wanted = integers(node.get("output_shape", ()))
    if not wanted and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [side * stride for side, stride in zip(x.shape[2:], strides, strict=True)]
    if wanted:
        totals = [max(side - want, 0) for side, want in zip(full_sides, wanted, strict=True)]
        pads = [_halves(total, larger_first=auto != "SAME_UPPER") for total in totals]
        full = functional.pad(full, _flat([(0, max(w - s, 0)) for w, s in zip(wanted, full_sides, strict=True)]))
    else:
        pads = _explicit(node, axes)
    cut = functional.pad(full, _flat([(-begin, -end) for begin, end in pads]))
    return cut if bias is None else cut + bias.reshape(-1, *[1] * axes)


def max_pool(node: Node, x: Tensor) -> Tensor:
    """The greatest value of each window; the border counts as smaller than everything."""
    axes = _spatial(node, x)
    kernel = integers(node.attributes["kernel_shape"])
    strides, dilations = _per_axis(node, "strides", axes), _per_axis(node, "dilations", axes)
    pads = _pads(node, x.shape[2:], kernel, strides, dilations)
    reach = _reach(node, x.shape[2:], kernel, strides, dilations, pads)
    if _any(reach):
        x = functional.pad(x, _flat(reach), value=-math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min)
    pooled: Tensor = MAXIMA[axes - 1](x, kernel, strides, 0, dilations)
    return pooled


def average_pool(node: Node, x: Tensor) -> Tensor:
    """The mean of each window, over the picture alone or over its padding too."""
    axes = _spatial(node, x)
    kernel = integers(node.attributes["kernel_shape"])
    strides, dilations = _per_axis(node, "strides", axes), _per_axis(node, "dilations", axes)
    if any(each != 1 for each in dilations):
        raise node.refusal(f"dilations {dilations}")
    pads = _pads(node, x.shape[2:], kernel, strides, dilations)
    reach = _reach(node, x.shape[2:], kernel, strides, dilations, pads)
    mean = MEANS[axes - 1]
    if not _any(reach):
        return mean(x, kernel, strides)
    inside = x.new_ones((1, 1, *x.shape[2:]))
    if node.get("count_include_pad", 0):
        inside = functional.pad(inside, _flat(pads), value=1)
        beyond = [(0, more[1] - pad[1]) for more, pad in zip(reach, pads, strict=True)]
        inside = functional.pad(inside, _flat(beyond))
    else:
        inside = functional.pad(inside, _flat(reach))
    return mean(functional.pad(x, _flat(reach)), kernel, strides) / mean(inside, kernel, strides)


def global_average_pool(node: Node, x: Tensor) -> Tensor:
    """The mean of each plane."""
    return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)


def global_max_pool(node: Node, x: Tensor) -> Tensor:
    """The greatest value of each plane."""
    return x.amax(dim=tuple(range(2, x.dim())), keepdim=True)


def fused_conv(
    node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None, addend: Tensor | None = None
) -> Tensor:
    """Convolution, addition and activation in one, as ONNX Runtime's optimiser writes them."""
    result = conv(node, x, weight, bias)
    return activated(node, result if addend is None else result + addend)


def activated(node: Node, x: Tensor) -> Tensor:
    """The activation that a fused node names, with its parameters."""
    name = node.get("activation", "")
    params = [float(each) for each in node.get("activation_params", ())]
    if name not in ACTIVATIONS:
        raise node.refusal(f"the activation {name}")
    return ACTIVATIONS[name](x, *params)


def _spatial(node: Node, x: Tensor) -> int:
    axes = x.dim() - 2
    if axes not in (1, 2, 3):
        raise node.refusal(f"an input of {x.dim()} axes")
    return axes


def _per_axis(node: Node, name: str, axes: int) -> list[int]:
    return integers(node.get(name, ())) or [1] * axes


def _explicit(node: Node, axes: int) -> Pads:
    pads = integers(node.get("pads", ())) or [0] * (2 * axes)
    return list(zip(pads[:axes], pads[axes:], strict=True))


def _pads(
    node: Node, sides: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Pads:
    """What is padded before and behind each axis."""
    auto = node.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return _explicit(node, len(sides))
    if auto == "VALID":
        return [(0, 0)] * len(sides)
    pads = []
    for side, window, stride, dilation in zip(sides, kernel, strides, dilations, strict=True):
        total = max((-(-side // stride) - 1) * stride + (window - 1) * dilation + 1 - side, 0)
        pads.append(_halves(total, larger_first=auto == "SAME_LOWER"))
    return pads


def _halves(total: int, larger_first: bool) -> tuple[int, int]:
    smaller = total // 2
    return (total - smaller, smaller) if larger_first else (smaller, total - smaller)


def _reach(
    node: Node,
    sides: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Pads,
) -> Pads:
    """The pads, and behind them what windows of ``ceil_mode`` reach over."""
    if not node.get("ceil_mode", 0):
        return pads
    reach = []
    for side, window, stride, dilation, (begin, end) in zip(sides, kernel, strides, dilations, pads, strict=True):
        extent = (window - 1) * dilation + 1
        last = -(-(side + begin + end - extent) // stride)
        if last * stride >= side + begin:  # a window that begins behind the picture is none
            last -= 1
        reach.append((begin, max(end, last * stride + extent - side - begin)))
    return reach


def _any(pads: Pads) -> bool:
    return any(begin or end for begin, end in pads)


def _flat(pads: Pads) -> list[int]:
    """As torch takes them: the last axis first."""
    return [each for pair in reversed(pads) for each in pair]
