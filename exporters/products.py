"""Matrix products of a graph: which of them can have 4-bit weights, and what can be rewritten as one.

A Gemm becomes a MatMul and an Add. A convolution of 1 x 1 pixels becomes a MatMul over the channels, between two
transpositions. Everything else that multiplies and accumulates is left as it is, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from engines.macs import MAC_OPERATORS
from exporters.blocks import Floats

NO_KERNEL = "no runtime has a 4-bit kernel for it"
TO_CHANNELS_LAST, TO_CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


@dataclass(frozen=True)
class Left:
    """A layer that stays as it is.

    Args:
        layer: its node's name.
        operator: its ONNX operator.
        reason: why.
    """

    layer: str
    operator: str
    reason: str


class Constants:
    """The constants of a graph by name, those of Constant nodes too."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "value":
                    self._tensors[node.output[0]] = attribute.t

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a constant, or ``None`` where the name is no constant."""
        tensor = self._tensors.get(name)
        return None if tensor is None else tuple(tensor.dims)

    def is_float32(self, name: str) -> bool:
        """Whether the name is a constant of float32."""
        return name in self._tensors and self._tensors[name].data_type == onnx.TensorProto.FLOAT

    def type_name(self, name: str) -> str:
        """The element type of a constant, in ONNX's words."""
        return str(onnx.TensorProto.DataType.Name(self._tensors[name].data_type).lower())

    def floats(self, name: str) -> Floats:
        """The values of a constant of float32."""
        return np.asarray(numpy_helper.to_array(self._tensors[name]), np.float32)

    def add(self, name: str, values: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> str:
        """Store a new constant; returns its name."""
        tensor = numpy_helper.from_array(np.ascontiguousarray(values), name)
        self._graph.initializer.append(tensor)
        self._tensors[name] = tensor
        return name


def rewrite(graph: onnx.GraphProto, pointwise: bool) -> tuple[list[str], list[Left]]:
    """Rewrite in place what can be a product with a constant matrix.

    Args:
        graph: whose nodes all have names.
        pointwise: whether convolutions of 1 x 1 pixels are rewritten too.

    Returns:
        The names of the MatMul nodes whose weight [depth, columns] may have 4 bits, and all other layers, in the order
        of the graph.
    """
    constants = Constants(graph)
    products: list[str] = []
    left: list[Left] = []
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type not in MAC_OPERATORS:
            nodes.append(node)
            continue
        reason = _obstacle(node, constants, pointwise)
        if reason is None:
            nodes.extend(_REWRITES[node.op_type](node, constants))
            products.append(node.name)
        else:
            nodes.append(node)
            left.append(Left(node.name, node.op_type, reason))
    del graph.node[:]
    graph.node.extend(nodes)
    return products, left


def prune(graph: onnx.GraphProto) -> None:
    """Drop the constants that no node reads any more."""
    used = _names_read(graph)
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _names_read(graph: onnx.GraphProto) -> set[str]:
    """Everything that the nodes of a graph read, those of inner graphs too."""
    used = {value.name for value in graph.output}
    for node in graph.node:
        used.update(node.input)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                used |= _names_read(inner)
    return used


def _obstacle(node: onnx.NodeProto, constants: Constants, pointwise: bool) -> str | None:
    """Why a layer cannot be a product with a constant float32 matrix, or ``None`` where it can."""
    if node.op_type not in _REWRITES:
        return f"{node.op_type}: {NO_KERNEL}"
    if constants.shape(node.input[1]) is None:
        left = constants.shape(node.input[0]) is not None
        return (
            "its constant is on the left" if left else "both factors are computed, as in attention: there is no weight"
        )
    if not constants.is_float32(node.input[1]):
        return f"expected float32 weights, got {constants.type_name(node.input[1])}; export the model in float32"
    causes = _conv_causes(node, constants, pointwise) if node.op_type == "Conv" else _product_causes(node, constants)
    return next((text for holds, text in causes if holds), None)


def _product_causes(node: onnx.NodeProto, constants: Constants) -> list[tuple[bool, str]]:
    attributes = attributes_of(node)
    shape = constants.shape(node.input[1]) or ()
    computed = len(node.input) > 2 and bool(node.input[2]) and not constants.is_float32(node.input[2])
    return [
        (len(shape) != 2, f"expected a matrix as its weight, got the shape {list(shape)}"),
        (bool(attributes.get("transA")), "a Gemm with transA: no MatMul means the same"),
        (attributes.get("beta", 1.0) != 1.0 and computed, "a Gemm with beta and a computed third input"),
    ]


def _conv_causes(node: onnx.NodeProto, constants: Constants, pointwise: bool) -> list[tuple[bool, str]]:
    attributes = attributes_of(node)
    size = (constants.shape(node.input[1]) or ())[2:]
    padded = any(attributes.get("pads", ())) or attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
    return [
        (size != (1, 1), f"a convolution of {' x '.join(map(str, size))} pixels: {NO_KERNEL}"),
        (attributes.get("group", 1) != 1, f"a convolution in groups: {NO_KERNEL}"),
        (padded, "a convolution of 1 x 1 pixels with padding"),
        (
            not pointwise,
            f"a convolution of 1 x 1 pixels: {NO_KERNEL}, unless it is rewritten as MatMul (pointwise)",
        ),
    ]


def _matmul(node: onnx.NodeProto, constants: Constants) -> list[onnx.NodeProto]:
    return [node]


def _gemm(node: onnx.NodeProto, constants: Constants) -> list[onnx.NodeProto]:
    attributes = attributes_of(node)
    weight = constants.floats(node.input[1]) * np.float32(attributes.get("alpha", 1.0))
    matrix = constants.add(f"{node.output[0]}_matrix", weight.T if attributes.get("transB") else weight)
    if len(node.input) < 3 or not node.input[2]:
        return [helper.make_node("MatMul", [node.input[0], matrix], list(node.output), node.name)]
    bias = node.input[2]
    beta = attributes.get("beta", 1.0)
    if beta != 1.0:
        bias = constants.add(f"{node.output[0]}_bias", constants.floats(bias) * np.float32(beta))
    return _product_and_sum(node, node.input[0], matrix, bias, node.output[0])


def _conv(node: onnx.NodeProto, constants: Constants) -> list[onnx.NodeProto]:
    """[N, C, H, W] to [N, H, W, C], product over the channels, and back."""
    output = node.output[0]
    nodes, source = _strided(node, constants)
    nodes.append(
        helper.make_node("Transpose", [source], [f"{output}_last"], f"{node.name}_last", perm=TO_CHANNELS_LAST)
    )
    weight = constants.floats(node.input[1])
    matrix = constants.add(f"{output}_matrix", weight[:, :, 0, 0].T)
    product = f"{output}_product"
    if len(node.input) < 3 or not node.input[2]:
        nodes.append(helper.make_node("MatMul", [f"{output}_last", matrix], [product], node.name))
    else:
        nodes += _product_and_sum(node, f"{output}_last", matrix, node.input[2], product)
    nodes.append(helper.make_node("Transpose", [product], [output], f"{node.name}_first", perm=TO_CHANNELS_FIRST))
    return nodes


def _strided(node: onnx.NodeProto, constants: Constants) -> tuple[list[onnx.NodeProto], str]:
    """What a stride leaves out of the input, left out by a Slice: the nodes, and the name of what remains."""
    strides = list(attributes_of(node).get("strides", (1, 1)))
    if strides == [1, 1]:
        return [], node.input[0]
    output = node.output[0]
    values = {"starts": [0, 0], "ends": [np.iinfo(np.int64).max] * 2, "axes": [2, 3], "steps": strides}
    names = [constants.add(f"{output}_{part}", np.asarray(each, np.int64)) for part, each in values.items()]
    slicing = helper.make_node("Slice", [node.input[0], *names], [f"{output}_strided"], f"{node.name}_strided")
    return [slicing], f"{output}_strided"


def _product_and_sum(node: onnx.NodeProto, source: str, matrix: str, bias: str, output: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("MatMul", [source, matrix], [f"{output}_without_bias"], node.name),
        helper.make_node("Add", [f"{output}_without_bias", bias], [output], f"{node.name}_bias"),
    ]


_REWRITES = {"MatMul": _matmul, "Gemm": _gemm, "Conv": _conv}


def attributes_of(node: onnx.NodeProto) -> Mapping[str, Any]:
    """The attributes of a node by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
