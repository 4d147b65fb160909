"""The layers of a Q/DQ file whose weights are integers: which integers, on which scale, and with which bias.

Two forms are read and written, those of `exporters.targets`: integers as constants before a DequantizeLinear, with
biases of 32 bits or of float, and float constants before a QuantizeLinear and a DequantizeLinear.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from engines.macs import MAC_OPERATORS
from exporters.blocks import Floats
from exporters.products import attributes_of
from exporters.qdq import shown_name

Integers = npt.NDArray[np.int64]

_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class QdqLayer:
    """One layer.

    Args:
        node: of the Q/DQ graph.
        source: the constant that holds its weights, integers or floats.
        dequantise: the DequantizeLinear that its weight comes from.
        scales: float32, of the shape of the weight: the step of each.
        zero: the integer that stands for 0, everywhere the same.
    """

    node: onnx.NodeProto
    source: str
    dequantise: onnx.NodeProto
    scales: Floats
    zero: int


class QdqGraph:
    """The constants of one Q/DQ graph, to read and to write."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}

    def layers(self) -> list[QdqLayer]:
        """The layers with constant integer weights of their own, in the order of the graph."""
        found = [self._layer(node) for node in self._graph.node if node.op_type in MAC_OPERATORS]
        layers = [layer for layer in found if layer is not None]
        sources = [layer.source for layer in layers]
        return [layer for layer in layers if sources.count(layer.source) == 1]

    def integers(self, layer: QdqLayer) -> Integers:
        """The integers of a layer's weight, without their zero point."""
        stored = numpy_helper.to_array(self._tensors[layer.source])
        if stored.dtype.kind == "f":
            return np.asarray(np.rint(stored / layer.scales), np.int64)
        return np.asarray(stored, np.int64) - layer.zero

    def set_integers(self, layer: QdqLayer, integers: Integers) -> None:
        """Put other integers in their place: exactly these are what the runtime computes with."""
        tensor = self._tensors[layer.source]
        old = numpy_helper.to_array(tensor)
        # A float that is a whole number of steps rounds to that number.
        new = (integers * layer.scales).astype(old.dtype) if old.dtype.kind == "f" else integers + layer.zero
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(new.astype(old.dtype)), layer.source))

    def has_own_bias(self, layer: QdqLayer) -> bool:
        """Whether a layer's bias is missing, or a constant that no other layer reads through the same scale."""
        name = layer.node.input[2] if len(layer.node.input) > 2 else ""
        maker = self._makers.get(name)
        if maker is None:
            return not name or name in self._tensors
        readers = sum(name in node.input for node in self._graph.node)
        return maker.op_type == "DequantizeLinear" and maker.input[0] in self._tensors and readers == 1

    def add_to_bias(self, layer: QdqLayer, difference: npt.NDArray[np.float64]) -> None:
        """Add to a layer's bias, one number per output channel; a bias that is missing is made as others are stored.

        Args:
            layer: a Conv or Gemm for which `has_own_bias`.
            difference: float64 [channels].
        """
        node = layer.node
        name = node.input[2] if len(node.input) > 2 else ""
        maker = self._makers.get(name)
        if maker is not None:  # integers of 32 bits; the constant is the layer's own, for its scale is
            scale = numpy_helper.to_array(self._tensors[maker.input[1]]).astype(np.float64)
            old = numpy_helper.to_array(self._tensors[maker.input[0]]).astype(np.int64)
            maker.input[0] = self._add(f"{node.output[0]}_corrected_bias", _int32(old + np.rint(difference / scale)))
            return
        if name or not self._biases_are_integers():
            given = numpy_helper.to_array(self._tensors[name]) if name else np.zeros(1)
            values = np.broadcast_to(given, difference.shape) + difference
            self._set_bias(node, self._add(f"{node.output[0]}_corrected_bias", values.astype(np.float32)))
            return
        self._set_bias(node, self._integer_bias(layer, difference))

    def _integer_bias(self, layer: QdqLayer, values: npt.NDArray[np.float64]) -> str:
        """A new bias of 32 bits on the scale of the sums, as integer kernels want it; returns its name."""
        node = layer.node
        activation = self._tensors[self._makers[node.input[0]].input[1]]
        scales = numpy_helper.to_array(self._tensors[layer.dequantise.input[1]]).reshape(-1)
        steps = (scales * numpy_helper.to_array(activation).reshape(-1)).astype(np.float32)
        stem = f"{node.output[0]}_corrected_bias"
        inputs = [
            self._add(f"{stem}_quantized", _int32(np.rint(values / steps))),
            self._add(f"{stem}_scale", np.broadcast_to(steps, values.shape)),
            self._add(f"{stem}_zero_point", np.zeros(len(values), np.int32)),
        ]
        made = helper.make_node("DequantizeLinear", inputs, [stem], f"{stem}_dequantise", axis=0)
        place = next(index for index, each in enumerate(self._graph.node) if each.output[0] == node.output[0])
        self._graph.node.insert(place, made)
        self._makers[stem] = made
        return stem

    def _biases_are_integers(self) -> bool:
        """Whether the biases of other layers are integers; so they are where no layer has any, and weights are."""
        biases = [
            node.input[2] for node in self._graph.node if node.op_type in ("Conv", "Gemm") and len(node.input) > 2
        ]
        weights = [self._tensors[layer.source].data_type for layer in self.layers()]
        if not biases:
            return onnx.TensorProto.FLOAT not in weights
        return any(name in self._makers for name in biases)

    def _layer(self, node: onnx.NodeProto) -> QdqLayer | None:
        dequantise = self._makers.get(node.input[1]) if len(node.input) > 1 else None
        if (
            dequantise is None
            or dequantise.op_type != "DequantizeLinear"
            or attributes_of(dequantise).get("block_size")
        ):
            return None
        source = dequantise.input[0]
        quantise = self._makers.get(source)
        if quantise is not None and quantise.op_type == "QuantizeLinear":
            source = quantise.input[0]
        if source not in self._tensors:
            return None
        shape = tuple(self._tensors[source].dims)
        scales = numpy_helper.to_array(self._tensors[dequantise.input[1]])
        if scales.size > 1:
            sizes = [1] * len(shape)
            sizes[attributes_of(dequantise).get("axis", 1)] = scales.size
            scales = scales.reshape(sizes)
        zeros = numpy_helper.to_array(self._tensors[dequantise.input[2]]) if len(dequantise.input) > 2 else np.zeros(1)
        if zeros.min() != zeros.max():
            return None
        every = np.broadcast_to(scales.reshape(-1)[0] if scales.size == 1 else scales, shape)
        return QdqLayer(node, source, dequantise, np.asarray(every, np.float32), int(zeros.reshape(-1)[0]))

    def _add(self, name: str, values: npt.NDArray[np.generic]) -> str:
        tensor = numpy_helper.from_array(np.ascontiguousarray(values), name)
        if name in self._tensors:
            self._tensors[name].CopyFrom(tensor)
        else:
            self._graph.initializer.append(tensor)
            self._tensors[name] = self._graph.initializer[-1]
        return name

    def _set_bias(self, node: onnx.NodeProto, name: str) -> None:
        del node.input[2:]
        node.input.append(name)


def float_nodes(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The nodes of a float model by `exporters.qdq.shown_name`, which is the same in its Q/DQ file."""
    return {shown_name(node.name): node for node in model.graph.node}


def _int32(values: npt.NDArray[np.generic]) -> npt.NDArray[np.int32]:
    return np.asarray(np.clip(values.astype(np.float64), _INT32.min, _INT32.max), np.int32)
