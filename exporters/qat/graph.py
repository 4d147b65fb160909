"""Graph: a Q/DQ file as a network that learns, with a quantiser wherever the file rounds.

The file comes from `exporters.qdq`, so batch norms are in the weights, ReLUs in the ranges, and rounding stands where
integer kernels round. What is trained is therefore the graph that is deployed, and it is written back by putting other
numbers into the same file (`exporters.qat.write`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from engines.macs import MAC_OPERATORS
from exporters.base import ExportError
from exporters.qat.base import Levels, Method, Quantiser, rounded
from exporters.qat.options import Bits
from exporters.twin.network import Twin
from exporters.twin.node import Node, Operator
from exporters.twin.table import OPERATORS

Floats = npt.NDArray[np.float32]

DOMAIN, QUANTISER = "qharness.qat", "Quantiser"
MIDDLE = 128  # the zero point of activations that go below zero: uint8 stands for -128 to 127 there


@dataclass(frozen=True)
class Constant:
    """A tensor of the file behind a DequantizeLinear.

    Args:
        stored: the name of its integers.
        scale: the name of its scales.
        output: what the layer reads.
        axis: of the channels that have a scale each; ``None`` for one scale.
    """

    stored: str
    scale: str
    output: str
    axis: int | None


@dataclass(frozen=True)
class Layer:
    """A layer whose weights and activations are integers.

    Args:
        name: of its node.
        activation: the name of the scale of what it reads.
        output: what it makes.
        weight, bias: its constants; ``None`` for a bias that it does not have.
    """

    name: str
    activation: str
    output: str
    weight: Constant
    bias: Constant | None


@dataclass(frozen=True)
class Activation:
    """Tensors that share a scale, as the inputs and outputs of a MaxPool do.

    Args:
        scale, zero: names of their scale and zero point.
        sources: what is rounded to it, in the order of the file.
        signed: whether they go below zero.
        reach: how far from zero the file can tell them.
    """

    scale: str
    zero: str
    sources: tuple[str, ...]
    signed: bool
    reach: float


class FakeQuantised(nn.Module):
    """The network of a Q/DQ file with learnable weights, biases and quantisers.

    Biases are rounded to what an int32 accumulator holds, so that what is trained is what is written.

    Args:
        model: what `exporters.qdq` wrote for `ort-cpu`.
        floats: name of a weight or bias, without ONNX Runtime's ending -> its float values, to begin with.
        method: which quantisers.
        bits: how many levels they have.

    Raises:
        ExportError: no layer of the file has integer weights, or it has operators that the twin lacks.
    """

    def __init__(self, model: onnx.ModelProto, floats: Mapping[str, Floats], method: Method, bits: Bits) -> None:
        super().__init__()
        self.layers = layers_from_qdq(model.graph)
        self.activations = activations_from_qdq(model.graph)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterDict()
        self.weight_quantisers, self.activation_quantisers = nn.ModuleList(), nn.ModuleList()
        ends = {0, len(self.layers) - 1}
        for place, layer in enumerate(self.layers):
            weight = torch.tensor(floats[layer.weight.stored])
            levels = Levels(bits.first_last if place in ends else bits.weights, signed=True)
            quantiser = method.weights(levels, weight, layer.weight.axis)
            self.weights.append(nn.Parameter(quantiser.standing_for(weight)))
            self.weight_quantisers.append(quantiser)
            if layer.bias is not None:
                self.biases[str(place)] = nn.Parameter(torch.tensor(floats[layer.bias.stored]))
        read = {layer.activation: bits.activations for layer in self.layers}
        read |= {self.layers[place].activation: bits.first_last for place in ends}
        for activation in self.activations:
            levels = Levels(read.get(activation.scale, 8), activation.signed)
            self.activation_quantisers.append(method.activations(levels, activation.reach))
        self._place = {activation.scale: place for place, activation in enumerate(self.activations)}
        self.twin = Twin(_open_graph(model, self.layers), operators={**OPERATORS, **self._operators()})

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [N, classes] of inputs as the network takes them."""
        values = {self.twin.inputs[0]: inputs}
        for place, layer in enumerate(self.layers):
            values[layer.weight.output] = self.weight_quantiser(place)(self.weights[place])
            if layer.bias is not None:
                step = self.bias_step(place)
                values[layer.bias.output] = step * rounded(self.biases[str(place)] / step)
        return self.twin.evaluate(values)[self.twin.outputs[0]]

    def weight_quantiser(self, place: int) -> Quantiser:
        """That of the layer at a place of `layers`."""
        return cast(Quantiser, self.weight_quantisers[place])

    def activation_quantiser(self, scale: str) -> Quantiser:
        """That of the tensors whose scale has this name."""
        return cast(Quantiser, self.activation_quantisers[self._place[scale]])

    def bias_step(self, place: int) -> Tensor:
        """What one unit of a layer's accumulator is worth: float32, a scalar or [channels]."""
        activation = self.activation_quantiser(self.layers[place].activation)
        return activation.scale().detach() * self.weight_quantiser(place).scale().detach()

    def decayed_and_free(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The parameters that weight decay draws to zero, weights and what quantisers name, and all others."""
        quantisers = [each for each in self.modules() if isinstance(each, Quantiser)]
        decayed = [*self.weights.parameters(), *(each for quantiser in quantisers for each in quantiser.decayed())]
        known = set(decayed)
        return decayed, [each for each in self.parameters() if each not in known]

    def _operators(self) -> dict[str, Operator]:
        def quantise(node: Node, values: Tensor) -> Tensor:
            quantiser = self.activation_quantiser(node.attributes["scale"])
            return cast(Tensor, quantiser(values))

        return {f"{DOMAIN}.{QUANTISER}": quantise}


def layers_from_qdq(graph: onnx.GraphProto) -> tuple[Layer, ...]:
    """The layers with integer weights, in the order of the file.

    Raises:
        ExportError: there is none.
    """
    makers = {name: node for node in graph.node for name in node.output}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    layers = []
    for node in graph.node:
        if node.op_type not in MAC_OPERATORS:
            continue
        source = makers.get(node.input[0])
        weight = _constant(node.input[1], makers, stored)
        bias = _constant(node.input[2], makers, stored) if len(node.input) > 2 else None
        if source is not None and source.op_type == "DequantizeLinear" and weight is not None:
            layers.append(Layer(node.name, source.input[1], node.output[0], weight, bias))
    if not layers:
        raise ExportError("no layer of this model gets integer weights, so there is nothing to train")
    return tuple(layers)


def activations_from_qdq(graph: onnx.GraphProto) -> tuple[Activation, ...]:
    """Every scale of an activation, in the order of the file."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    sources: dict[tuple[str, str], list[str]] = {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            sources.setdefault((node.input[1], node.input[2]), []).append(node.input[0])
    found = []
    for (scale, zero), names in sources.items():
        step = float(numpy_helper.to_array(stored[scale]))
        start = int(numpy_helper.to_array(stored[zero]))
        found.append(Activation(scale, zero, tuple(names), start > 0, step * max(start, 255 - start)))
    return tuple(found)


def float_constants(folded: onnx.ModelProto, layers: Sequence[Layer]) -> dict[str, Floats]:
    """The weights and biases of the folded float model, by the names of their integers in the Q/DQ file."""
    floats = {tensor.name: tensor for tensor in folded.graph.initializer}
    constants = [constant for layer in layers for constant in (layer.weight, layer.bias) if constant is not None]
    return {
        each.stored: np.array(numpy_helper.to_array(floats[each.stored.removesuffix("_quantized")]), np.float32)
        for each in constants
    }


def _constant(
    name: str, makers: Mapping[str, onnx.NodeProto], stored: Mapping[str, onnx.TensorProto]
) -> Constant | None:
    node = makers.get(name)
    if node is None or node.op_type != "DequantizeLinear" or node.input[0] not in stored:
        return None
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    per_channel = len(stored[node.input[1]].dims) > 0
    return Constant(node.input[0], node.input[1], node.output[0], axis if per_channel else None)


def _open_graph(model: onnx.ModelProto, layers: Sequence[Layer]) -> onnx.ModelProto:
    """The graph with weights and biases as inputs, and quantisers in the place of Q/DQ pairs."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    graph = opened.graph
    given = {each.output for layer in layers for each in (layer.weight, layer.bias) if each is not None}
    codes = {node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    nodes = []
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            nodes.append(
                helper.make_node(
                    QUANTISER, node.input[:1], list(node.output), node.name, domain=DOMAIN, scale=node.input[1]
                )
            )
        elif node.op_type == "DequantizeLinear" and node.input[0] in codes:
            nodes.append(helper.make_node("Identity", node.input[:1], list(node.output), node.name))
        elif not given & set(node.output):
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.input.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in sorted(given))
    opened.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return opened
