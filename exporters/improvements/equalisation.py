"""Cross-layer equalisation: neighbouring layers share the sizes of their weights channel by channel.

A depthwise convolution has few weights per channel, and after batch norms are folded some channels' weights are a
hundred times as large as others'; one scale per tensor then leaves the small ones two or three integers. Where only
positively homogeneous operators stand between two layers, a channel can be made smaller in the first and larger in the
second without changing the network.

Source: Nagel, van Baalen, Blankevoort and Welling, "Data-Free Quantization Through Weight Equalization and Bias
Correction", 2019, section 4.1. Its replacement of ReLU6 by ReLU, which changes the network, is not done: a ReLU6
becomes a ReLU and, channel by channel, a minimum with ``6 / s``, in float between the integer layers. Nor is its
absorption of high biases, which holds on most pictures only. Instead a bias counts as a weight of a tenth of it: a
channel with next to no weights and a bias would be enlarged without end, and the one scale of all activations with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from exporters.improvements.base import Graph, Improved, Material
from exporters.products import Constants, Left, attributes_of, prune

Factors = npt.NDArray[np.float64]
Sizes = npt.NDArray[np.float64]

# Operators f with f(s x) = s f(x) for s > 0, channel by channel.
HOMOGENEOUS = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool")

# What of a bias counts as a weight. Any share from 0.02 to 0.5 saves MobileNetV2 with one scale per weight; 0 does not:
# seen on 60 photographs, which `benchmarks.improvements` scores too.
BIAS_SHARE = 0.1

# Chains are solved pair by pair until no channel moves by more than this, or as many times.
TOLERANCE, SWEEPS = 1e-4, 1000


@dataclass(frozen=True)
class Pair:
    """Two convolutions that scale together.

    Args:
        first: whose output channels become smaller by ``s``.
        second: whose input channels become larger by ``s``.
        caps: the Clips between them, from 0 to a number.
    """

    first: str
    second: str
    caps: tuple[onnx.NodeProto, ...]


class CrossLayerEqualisation:
    """``s = sqrt(r1 r2) / r2`` for each channel, with ``r1`` and ``r2`` its largest weights in the first and the second
    layer, the bias of the first included by `BIAS_SHARE`; afterwards both are ``sqrt(r1 r2)``. A channel whose
    weights are all zero stays as it is.
    """

    after = False

    def __call__(self, model: onnx.ModelProto, original: onnx.ModelProto, material: Material) -> Improved:
        """See `exporters.improvements.base.Improvement`. Looks at no picture."""
        graph, constants = model.graph, Constants(model.graph)
        convolutions = {node.name: node for node in graph.node if node.op_type == "Conv"}
        pairs, left = _pairs(convolutions, Graph(graph), constants)
        known = {name: node for name, node in convolutions.items() if _is_constant(node, constants)}
        sizes = {name: _sizes(node, constants) for name, node in known.items()}
        factors = solve(sizes, {name: _bias_sizes(node, constants) for name, node in known.items()}, pairs)
        inputs = {pair.second: factors[pair.first] for pair in pairs}
        changed = dict.fromkeys(name for pair in pairs for name in (pair.first, pair.second))
        for name in changed:
            _scale(convolutions[name], constants, factors.get(name), inputs.get(name))
        caps = {cap.output[0]: factors[pair.first] for pair in pairs for cap in pair.caps}
        _replace_caps(graph, constants, caps)
        prune(graph)
        return Improved(tuple(changed), tuple(left))


def solve(sizes: Mapping[str, Sizes], biases: Mapping[str, Sizes], pairs: Sequence[Pair]) -> dict[str, Factors]:
    """First layer of each pair -> the ``s`` of its output channels, float64 [channels].

    Args:
        sizes: layer -> the largest weight of each output by input channel, float64 [groups, outputs, inputs] per group.
        biases: layer -> what the bias of each output counts for, float64 [outputs of all groups].
        pairs: each layer is the first of one pair at most, and the second of one.
    """
    now = {name: values.copy() for name, values in sizes.items()}
    factors = {pair.first: np.ones(now[pair.first].shape[0] * now[pair.first].shape[1]) for pair in pairs}
    for _ in range(SWEEPS):
        moved = 0.0
        for pair in pairs:
            first, second = now[pair.first], now[pair.second]
            outputs = first.max(axis=2).ravel()
            floor = np.where(outputs > 0, biases[pair.first] / factors[pair.first], 0)
            by = equalising(np.maximum(outputs, floor), second.max(axis=1).ravel())
            first /= by.reshape(*first.shape[:2], 1)
            second *= by.reshape(second.shape[0], 1, second.shape[2])
            factors[pair.first] *= by
            moved = max(moved, float(np.abs(np.log(by)).max()))
        if moved < TOLERANCE:
            break
    return factors


def equalising(first: Factors, second: Factors) -> Factors:
    """``sqrt(r1 r2) / r2`` for each channel, 1 where either is 0.

    >>> equalising(np.array([4.0, 9.0, 0.0]), np.array([1.0, 9.0, 5.0])).tolist()
    [2.0, 1.0, 1.0]
    """
    usable = (first > 0) & (second > 0)
    ratio = np.divide(first, second, out=np.ones_like(first), where=usable)
    return np.asarray(np.sqrt(ratio), np.float64)


def _pairs(
    convolutions: Mapping[str, onnx.NodeProto], graph: Graph, constants: Constants
) -> tuple[list[Pair], list[Left]]:
    pairs, left = [], []
    for name, node in convolutions.items():
        found = _pair(node, graph, constants)
        if isinstance(found, Pair):
            pairs.append(found)
        else:
            left.append(Left(name, node.op_type, found))
    return pairs, left


def _pair(node: onnx.NodeProto, graph: Graph, constants: Constants) -> Pair | str:
    """The convolution behind this one with which it can share, or why there is none."""
    if not _is_constant(node, constants):
        return "its weights or biases are computed, or it is no convolution of planes"
    caps: list[onnx.NodeProto] = []
    current = node
    while True:
        reader = graph.only_reader(current.output[0])
        if reader is None:
            return "more than one node reads its output"
        if reader.op_type == "Conv":
            if not _is_constant(reader, constants):
                return "the weights or biases of the convolution behind it are computed"
            return Pair(node.name, reader.name, tuple(caps))
        if reader.op_type == "Clip" and _cap(reader, constants) is not None:
            caps.append(reader)
        elif reader.op_type not in HOMOGENEOUS:
            return f"{reader.op_type} stands behind it"
        current = reader


def _cap(clip: onnx.NodeProto, constants: Constants) -> float | None:
    """The upper end of a Clip from 0 on, or ``None`` for any other Clip."""
    names = [*clip.input[1:], "", ""][:2]
    if any(constants.shape(name) is None for name in names):
        return None
    low, high = (float(constants.floats(name).reshape(-1)[0]) for name in names)
    return high if low == 0 else None


def _is_constant(node: onnx.NodeProto, constants: Constants) -> bool:
    """Whether all but the picture of a convolution of planes is constant."""
    known = all(constants.is_float32(name) for name in node.input[1:] if name)
    return known and len(constants.shape(node.input[1]) or ()) == 4


def _grouped(node: onnx.NodeProto, constants: Constants) -> npt.NDArray[np.float64]:
    """The weights of a convolution, float64 [groups, outputs, inputs, pixels] per group."""
    weight = constants.floats(node.input[1]).astype(np.float64)
    groups = attributes_of(node).get("group", 1)
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)


def _sizes(node: onnx.NodeProto, constants: Constants) -> Sizes:
    sizes: Sizes = np.abs(_grouped(node, constants)).max(axis=3)
    return sizes


def _bias_sizes(node: onnx.NodeProto, constants: Constants) -> Sizes:
    outputs = (constants.shape(node.input[1]) or (0,))[0]
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(outputs)
    return np.asarray(BIAS_SHARE * np.abs(constants.floats(node.input[2])), np.float64)


def _scale(node: onnx.NodeProto, constants: Constants, outputs: Factors | None, inputs: Factors | None) -> None:
    """Divide the output channels of a convolution by ``outputs``, multiply its input channels by ``inputs``."""
    weight = _grouped(node, constants)
    new: dict[str, npt.NDArray[Any]] = {}
    if inputs is not None:
        weight = weight * inputs.reshape(weight.shape[0], 1, weight.shape[2], 1)
    if outputs is not None:
        weight = weight / outputs.reshape(weight.shape[0], weight.shape[1], 1, 1)
        if len(node.input) > 2 and node.input[2]:
            new["bias"] = constants.floats(node.input[2]) / outputs
    new["weight"] = weight.reshape(constants.shape(node.input[1]) or ())
    for place, part in ((1, "weight"), (2, "bias")):
        if part in new:  # a new constant, for other layers may read the old one too
            node.input[place] = constants.add(f"{node.output[0]}_equalised_{part}", new[part].astype(np.float32))


def _replace_caps(graph: onnx.GraphProto, constants: Constants, caps: Mapping[str, Factors]) -> None:
    """A Relu and a Min with one number per channel in place of each Clip, by the name of its output."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "Clip" or node.output[0] not in caps:
            nodes.append(node)
            continue
        output, cap = node.output[0], _cap(node, constants) or 0.0
        per_channel = (cap / caps[output]).astype(np.float32).reshape(-1, 1, 1)
        name = constants.add(f"{output}_caps", per_channel)
        nodes.append(helper.make_node("Relu", [node.input[0]], [f"{output}_uncapped"], node.name))
        nodes.append(helper.make_node("Min", [f"{output}_uncapped", name], [output], f"{node.name}_cap"))
    del graph.node[:]
    graph.node.extend(nodes)
