"""Multiply-accumulates of every layer of an ONNX graph, and how each layer is quantised in the file.

Layers are weighted by multiply-accumulates, not counted: a first convolution left in float is one layer of
fifty, and may be a fifth of the work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

# Operators whose work is multiply-accumulates; all others are counted as none.
MAC_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulNBits")

# Operators with integers inside -> the operator that they compute, and the place of the weight; activations come first.
INTEGER_OPERATORS = {
    "ConvInteger": ("Conv", 1),
    "MatMulInteger": ("MatMul", 1),
    "QGemm": ("Gemm", 3),
    "QLinearConv": ("Conv", 3),
    "QLinearMatMul": ("MatMul", 3),
}

# ONNX Runtime's operator, unknown to ONNX's shape inference -> one of the same shapes, and the inputs that it reads.
_SAME_SHAPES = {
    "QGemm": ("Gemm", slice(0, 4, 3)),
    "QLinearAdd": ("Add", slice(0, 4, 3)),
    "QLinearAveragePool": ("AveragePool", slice(1)),
    "QLinearConcat": ("Concat", slice(2, None, 3)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", slice(1)),
    "QLinearLeakyRelu": ("Identity", slice(1)),
    "QLinearMul": ("Mul", slice(0, 4, 3)),
    "QLinearSigmoid": ("Identity", slice(1)),
    "QLinearSoftmax": ("Identity", slice(1)),
}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One layer as the file describes it.

    Args:
        name: the node's name, or its first output where it has none.
        operator: its ONNX operator, or the one that it computes with integers.
        macs: multiply-accumulates for one picture.
        activation: type before the DequantizeLinear that feeds it ("uint8"), or "float".
        weight: the same for its weight ("int8", "int4", ...).
        output: "quantised" when a QuantizeLinear reads the output; "Relu" or "Clip" when one of those stands
            between; else "float".
        shared_input: whether its quantised activation has other readers too.
        shared_output: whether its quantised output has several readers.
    """

    name: str
    operator: str
    macs: int
    activation: str
    weight: str
    output: str
    shared_input: bool
    shared_output: bool


def macs_of(operator: str, inputs: Sequence[Shape | None], output: Shape) -> int:
    """Multiply-accumulates of one node for one picture (the batch, the output's first axis, is left out).

    Args:
        operator: one of `MAC_OPERATORS`.
        inputs: shapes of activation and weight.
        output: shape of the output.

    >>> macs_of("Conv", [(1, 3, 224, 224), (64, 3, 7, 7)], (1, 64, 112, 112))
    118013952
    """
    activation, weight = inputs[0], inputs[1]
    per_picture = math.prod(output[1:])
    if operator == "Conv":
        return per_picture * math.prod((weight or ())[1:])
    if operator == "ConvTranspose":
        return math.prod((activation or ())[1:]) * math.prod((weight or ())[1:])
    if operator == "Gemm":
        return math.prod(weight or ())
    return per_picture * (activation or (0,))[-1]


def layers_from_onnx(path: Path) -> tuple[Layer, ...]:
    """Every layer that multiplies and accumulates, in the order of the graph."""
    model = onnx.load(str(path), load_external_data=False)
    graph = _Graph(model)
    return tuple(graph.layer(node) for node in model.graph.node if node.op_type in (*MAC_OPERATORS, *INTEGER_OPERATORS))


def _with_known_operators(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for ONNX's shape inference, which stops at ONNX Runtime's operators: others of their shapes stand in."""
    known = onnx.ModelProto()
    known.CopyFrom(model)
    for node in known.graph.node:
        if node.op_type in _SAME_SHAPES:
            node.op_type, inputs = _SAME_SHAPES[node.op_type]
            node.domain = ""
            read = list(node.input)[inputs]
            del node.input[:]
            node.input.extend(read)
        if node.op_type == "MatMulNBits":
            size = {each.name: each.i for each in node.attribute}
            matrix = f"{node.output[0]} as a matrix"
            known.graph.input.append(
                onnx.helper.make_tensor_value_info(matrix, onnx.TensorProto.FLOAT, [size["K"], size["N"]])
            )
            node.CopyFrom(onnx.helper.make_node("MatMul", [node.input[0], matrix], list(node.output), node.name))
    return known


class _Graph:
    """Look-ups in one graph with all shapes inferred for a batch of one."""

    def __init__(self, model: onnx.ModelProto) -> None:
        constants = {tensor.name for tensor in model.graph.initializer}
        for value in model.graph.input:
            if value.name not in constants and value.type.tensor_type.shape.dim:
                value.type.tensor_type.shape.dim[0].dim_value = 1
        # Shapes that an exporter left behind, with its own batch, would contradict the inferred ones.
        del model.graph.value_info[:]
        for value in model.graph.output:
            if value.type.tensor_type.shape.dim:
                value.type.tensor_type.shape.dim[0].dim_value = 1
        inferred = onnx.shape_inference.infer_shapes(_with_known_operators(model)).graph
        self.shapes: dict[str, Shape] = {t.name: tuple(t.dims) for t in inferred.initializer}
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            self.shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.types: dict[str, str] = {t.name: _type_name(t.data_type) for t in inferred.initializer}
        for value in (*inferred.value_info, *inferred.output):
            self.types.setdefault(value.name, _type_name(value.type.tensor_type.elem_type))
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        for value in inferred.output:
            self.readers.setdefault(value.name, [])

    def layer(self, node: onnx.NodeProto) -> Layer:
        if node.op_type in INTEGER_OPERATORS:
            return self._integer_layer(node)
        output = self.shapes.get(node.output[0], ())
        inputs = [self.shapes.get(name) for name in node.input[:2]]
        return Layer(
            name=node.name or node.output[0],
            operator=node.op_type,
            macs=macs_of(node.op_type, inputs, output),
            activation=self._quantised_type(node.input[0]),
            weight="int4" if node.op_type == "MatMulNBits" else self._quantised_type(node.input[1]),
            output=self._output(node.output[0]),
            shared_input=self._is_shared(node.input[0]),
            shared_output=self._output_is_shared(node.output[0]),
        )

    def _integer_layer(self, node: onnx.NodeProto) -> Layer:
        operator, weight = INTEGER_OPERATORS[node.op_type]
        read = (node.input[0], node.input[weight])
        return Layer(
            name=node.name or node.output[0],
            operator=operator,
            macs=macs_of(operator, [self.shapes.get(name) for name in read], self.shapes.get(node.output[0], ())),
            activation=self.types.get(read[0], "uint8"),
            weight=self.types.get(read[1], "int8"),
            output="quantised",
            shared_input=False,
            shared_output=False,
        )

    def _quantised_type(self, name: str) -> str:
        dequantise = self.makers.get(name)
        if dequantise is None or dequantise.op_type != "DequantizeLinear":
            return "float"
        # Where nothing says what a QuantizeLinear gives, ONNX's operator gives uint8.
        return self.types.get(dequantise.input[0], "uint8")

    def _output(self, name: str) -> str:
        readers = self.readers.get(name, [])
        between = readers[0].op_type if len(readers) == 1 else ""
        if between in ("Relu", "Clip"):
            readers = self.readers.get(readers[0].output[0], [])
        if not readers or any(reader.op_type != "QuantizeLinear" for reader in readers):
            return "float"
        return str(between) if between in ("Relu", "Clip") else "quantised"

    def _is_shared(self, name: str) -> bool:
        dequantise = self.makers.get(name)
        if dequantise is None or dequantise.op_type != "DequantizeLinear":
            return False
        return len(self.readers.get(dequantise.input[0], [])) + len(self.readers.get(name, [])) > 2

    def _output_is_shared(self, name: str) -> bool:
        for quantise in self.readers.get(name, []):
            for dequantise in self.readers.get(quantise.output[0], []):
                if self._is_shared(dequantise.output[0]):
                    return True
        return False


def _type_name(element_type: int) -> str:
    return str(onnx.TensorProto.DataType.Name(element_type)).lower()
