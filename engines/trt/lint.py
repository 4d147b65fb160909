"""The Q/DQ linter: what TensorRT would refuse in a file, or would quietly run in float.

A pass over the ONNX file that needs neither TensorRT nor a GPU. Each rule is one function and one row of `RULES`.
Sources: NVIDIA's documentation of explicit quantisation, and the assertions in the parser and the builder of 8.6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from engines import FORMATS
from engines.artifact import ArtifactError, format_of
from engines.lint import ERROR, WARNING, Finding
from engines.trt.qdq_graph import CLIP, DEQUANTISE, QUANTISE, QdqGraph, graph_from_onnx, node_name

# Operators with integers inside: TensorRT's parser has no importer for them.
QOPERATORS = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
    }
)
STANDARD_DOMAINS = ("", "ai.onnx")
INTEGER_TYPES = ("int8", "int4")
FLOAT8 = "float8e4m3fn"
UNSIGNED = ("uint8", "uint4", "uint16")
INT4_BLOCKS = (64, 128)

# What TensorRT computes inside the layer before it.
FUSED_BEHIND = ("BatchNormalization", "Clip", "LeakyRelu", "Relu")


class Rule(NamedTuple):
    """One row: the function that finds violations as (node, message), how bad they are, and what mends them."""

    find: Callable[[QdqGraph], Iterator[tuple[onnx.NodeProto, str]]]
    severity: str
    mend: str


def findings_from_onnx(path: Path) -> tuple[Finding, ...]:
    """Everything in a file that does not suit TensorRT, rule by rule.

    Raises:
        ArtifactError: there is no such file, or it is not ONNX.
    """
    given = format_of(path)
    if given != "onnx":
        raise ArtifactError(f"{path} is {FORMATS[given].about}; expected the ONNX file that it was made from")
    graph = graph_from_onnx(path)
    return tuple(
        Finding(name, rule.severity, node_name(node), message, rule.mend)
        for name, rule in RULES.items()
        for node, message in rule.find(graph)
    )


Violations = Iterator[tuple[onnx.NodeProto, str]]


def _qoperators(graph: QdqGraph) -> Violations:
    for node in graph.nodes:
        if node.op_type in QOPERATORS:
            yield node, f"expected Q/DQ pairs around float operators; got {node.op_type}"


def _foreign(graph: QdqGraph) -> Violations:
    for node in graph.nodes:
        if node.domain not in STANDARD_DOMAINS:
            yield node, f"expected operators of the ONNX standard; got {node.op_type} of {node.domain}"


def _unsigned(graph: QdqGraph) -> Violations:
    for node, found in graph.typed():
        if found in UNSIGNED:
            yield node, f"expected signed integers; got {found}"


def _element_type(graph: QdqGraph) -> Violations:
    for node, found in graph.typed():
        if found not in (*INTEGER_TYPES, FLOAT8, *UNSIGNED):
            yield node, f"expected int8, int4 or FP8; got {found}"


def _zero_point(graph: QdqGraph) -> Violations:
    for node in graph.pairs():
        found = graph.integer_type(node)
        if found not in INTEGER_TYPES:
            continue
        if len(node.input) < 3 or not node.input[2]:
            if found == "int8":
                yield node, "expected a zero point of 0, as TensorRT 8.6 insists; got none"
            continue
        zeros = graph.values(node.input[2])
        if node.input[2] not in graph.constants:
            yield node, "expected a constant zero point; got one that is computed"
        elif zeros is not None and zeros.any():
            worst = zeros.reshape(-1)[np.abs(zeros.reshape(-1).astype(np.int64)).argmax()]
            yield node, f"expected zero points of 0; got {worst}"


def _scale(graph: QdqGraph) -> Violations:
    for node in graph.pairs():
        scale = graph.values(node.input[1])
        if node.input[1] not in graph.constants:
            yield node, "expected constant scales; got scales that are computed"
        elif scale is not None:
            floats = scale.astype(np.float64).reshape(-1)
            wrong = floats[~(np.isfinite(floats) & (floats > 0))]
            if wrong.size:
                yield node, f"expected positive, finite scales; got {wrong[0]}"


def _per_channel(graph: QdqGraph) -> Violations:
    for node in graph.pairs():
        scale = graph.constants.get(node.input[1])
        count = int(np.prod(scale.dims)) if scale is not None else 1
        if count > 1 and not graph.is_constant(node.input[0]):
            yield node, f"expected one scale for an activation; got {count}"


def _int4_blocks(graph: QdqGraph) -> Violations:
    for node, found in graph.typed():
        if found != "int4":
            continue
        weight = graph.constants.get(node.input[0])
        if weight is None:
            yield node, "expected INT4 in weights alone; got an activation"
            continue
        reason = _block_obstacle(node, list(weight.dims))
        if reason:
            yield node, reason


def _block_obstacle(node: onnx.NodeProto, shape: list[int]) -> str | None:
    attributes = {each.name: each.i for each in node.attribute}
    block, axis, rank = attributes.get("block_size", 0), attributes.get("axis", 1), len(shape)
    axis += rank if axis < 0 else 0
    if block not in INT4_BLOCKS:
        return f"expected blocks of 64 or 128; got {block or 'no blocks'}"
    if axis < rank - 2:
        return f"expected blocks along one of the last two of {rank} dimensions; got dimension {axis}"
    if shape[axis] % block:
        return f"expected a dimension that {block} divides; got {shape[axis]}"
    if shape[-1] % 2:
        return f"expected an even last dimension, for 4-bit numbers lie in pairs; got {shape[-1]}"
    return None


def _clipped_integers(graph: QdqGraph) -> Violations:
    for node in graph.pairs():
        clip = graph.maker(node.input[0], CLIP)
        if node.op_type == DEQUANTISE and clip is not None:
            yield clip, f"expected integers straight in front of {node_name(node)}; got a Clip of them"


def _half_quantised(graph: QdqGraph) -> Violations:
    for layer in graph.layers():
        activation, weight = (graph.input_type(name) for name in layer.input[:2])
        if (activation == "float") != (weight == "float") and weight != "int4":
            got = "its activation" if activation == "float" else "its weight"
            yield layer, f"expected Q/DQ on activation and weight; {got} is float, so it computes in float"


def _stored_integers(graph: QdqGraph) -> Violations:
    for node, found in graph.typed():
        if node.op_type == DEQUANTISE and found == "int8":
            yield node, "expected a float weight with QuantizeLinear and DequantizeLinear; got a stored INT8 weight"


def _inside_a_fusion(graph: QdqGraph) -> Violations:
    for layer in graph.layers():
        dequantise = _pair_behind(graph, layer.output[0])
        behind = None if dequantise is None else graph.only_reader(dequantise.output[0])
        if dequantise is not None and behind is not None and behind.op_type in FUSED_BEHIND:
            yield dequantise, f"expected {behind.op_type} straight behind {node_name(layer)}; got Q/DQ between them"


def _doubled(graph: QdqGraph) -> Violations:
    for node in graph.pairs():
        behind = graph.only_reader(node.output[0])
        if node.op_type == DEQUANTISE and behind is not None and behind.op_type == QUANTISE:
            yield behind, f"expected one Q/DQ pair; got a second one behind {node_name(node)}"


def _residual(graph: QdqGraph) -> Violations:
    for add, straight in _sums(graph):
        if len(straight) == 2:
            others = [straight[0].output[0]]
        else:
            others = [name for name in add.input if straight and name != straight[0].output[0]]
        for name in others:
            if graph.input_type(name) == "float" and not graph.is_constant(name):
                yield add, f"expected the residual {name!r} behind Q/DQ; got float, so the sum is left in float"


def _both_sides(graph: QdqGraph) -> Violations:
    for add, straight in _sums(graph):
        layers = [_layer_behind_pair(graph, add, name) for name in add.input]
        layer = next((each for each in layers if each is not None), None)
        if layer is not None and not straight:
            yield add, f"expected {node_name(layer)} straight in front of the sum; got Q/DQ on both sides"


def _layer_behind_pair(graph: QdqGraph, add: onnx.NodeProto, name: str) -> onnx.NodeProto | None:
    """The quantised layer whose output reaches a sum by a Q/DQ pair that nothing else reads."""
    dequantise = graph.maker(name, DEQUANTISE)
    quantise = graph.maker(dequantise.input[0], QUANTISE) if dequantise is not None else None
    layer = graph.makers.get(quantise.input[0]) if quantise is not None else None
    if layer is None or not graph.is_quantised(layer):
        return None
    alone = graph.only_reader(layer.output[0]) is quantise and graph.only_reader(name) is add
    return layer if alone else None


def _sums(graph: QdqGraph) -> Iterator[tuple[onnx.NodeProto, list[onnx.NodeProto]]]:
    """Each Add of two activations, with the quantised layers that alone and straight feed it."""
    for add in graph.nodes:
        if add.op_type == "Add" and not any(graph.is_constant(name) for name in add.input):
            makers = [graph.makers.get(name) for name in add.input]
            yield (
                add,
                [m for m in makers if m and graph.is_quantised(m) and graph.only_reader(m.output[0]) is add],
            )


def _pair_behind(graph: QdqGraph, name: str) -> onnx.NodeProto | None:
    """The DequantizeLinear of the one Q/DQ pair that alone reads a tensor."""
    quantise = graph.only_reader(name)
    if quantise is None or quantise.op_type != QUANTISE:
        return None
    dequantise = graph.only_reader(quantise.output[0])
    return dequantise if dequantise is not None and dequantise.op_type == DEQUANTISE else None


_AGAIN = "quantise the float model again: qharness quantize MODEL --for tensorrt"

RULES = {
    "no-qoperator": Rule(_qoperators, ERROR, _AGAIN),
    "standard-operators": Rule(_foreign, ERROR, f"export without them, or {_AGAIN}"),
    "signed": Rule(_unsigned, ERROR, _AGAIN),
    "element-type": Rule(_element_type, ERROR, f"leave biases and 16-bit tensors in float: {_AGAIN}"),
    "zero-point": Rule(_zero_point, ERROR, f"symmetric ranges, with zero points of 0: {_AGAIN}"),
    "scale": Rule(
        _scale, ERROR, "calibrate again on pictures that reach this layer, or keep it in float: --keep-float"
    ),
    "per-channel": Rule(_per_channel, ERROR, "one scale for each activation; several are for weights"),
    "int4-blocks": Rule(_int4_blocks, ERROR, "qharness quantize MODEL --to int4 --block 64 --for tensorrt"),
    "clip": Rule(_clipped_integers, ERROR, f"TensorRT clips floats alone: fold it into the weight, or {_AGAIN}"),
    "both-inputs": Rule(_half_quantised, WARNING, "put Q/DQ on both, or on neither to keep the layer in float"),
    "weight-pair": Rule(_stored_integers, WARNING, f"TensorRT 8.6 refuses it, newer versions differ: {_AGAIN}"),
    "fusion": Rule(_inside_a_fusion, WARNING, "move the pair behind it: TensorRT fuses it into the layer"),
    "one-pair": Rule(_doubled, WARNING, "take one pair away: each rounds, and breaks a fusion"),
    "residual": Rule(_residual, WARNING, "put Q/DQ on the other input of the sum"),
    "sum": Rule(
        _both_sides, WARNING, "take the pair between the layer and the sum away: TensorRT adds inside the layer"
    ),
}
