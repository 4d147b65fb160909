"""Look-ups in a Q/DQ graph: who makes a tensor, who reads it, what its constants hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from engines.artifact import ArtifactError
from engines.macs import MAC_OPERATORS
from engines.onnx_file import model_from_onnx

QUANTISE, DEQUANTISE, CLIP = "QuantizeLinear", "DequantizeLinear", "Clip"

# What a QuantizeLinear gives when neither a zero point nor an attribute says so (the ONNX operator's definition).
_DEFAULT_TYPE = "uint8"


class QdqGraph:
    """One graph with its indices. Constants are read without the weights that lie outside the file."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.constants |= {
            node.output[0]: attribute.t
            for node in self.nodes
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value"
        }
        self.outputs = {value.name for value in model.graph.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def pairs(self) -> Iterator[onnx.NodeProto]:
        """Every QuantizeLinear and DequantizeLinear."""
        return (node for node in self.nodes if node.op_type in (QUANTISE, DEQUANTISE))

    def typed(self) -> Iterator[tuple[onnx.NodeProto, str]]:
        """Where integers come into the graph, with their element type: each QuantizeLinear and each stored weight."""
        for node in self.pairs():
            if node.op_type == QUANTISE or self.stored(node.input[0]) in self.constants:
                yield node, self.integer_type(node)

    def layers(self) -> Iterator[onnx.NodeProto]:
        """Every node that multiplies and accumulates."""
        return (node for node in self.nodes if node.op_type in MAC_OPERATORS)

    def is_quantised(self, node: onnx.NodeProto) -> bool:
        """Whether a node multiplies and accumulates, on an activation behind Q/DQ."""
        return node.op_type in MAC_OPERATORS and self.input_type(node.input[0]) != "float"

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read a tensor, once for each time."""
        return self._readers.get(name, [])

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor, or ``None``: several do, or the caller of the network does too."""
        readers = self.readers(name)
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def maker(self, name: str, operator: str) -> onnx.NodeProto | None:
        """The node of this operator that makes a tensor, or ``None``."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == operator else None

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is stored in the file, perhaps behind Q/DQ nodes."""
        node = self.makers.get(name)
        while node is not None and node.op_type in (QUANTISE, DEQUANTISE, CLIP):
            name = node.input[0]
            node = self.makers.get(name)
        return name in self.constants

    def stored(self, name: str) -> str:
        """The tensor itself, or what a Clip takes of it: so exporters of fake quantisation keep weights in range."""
        clip = self.maker(name, CLIP)
        return name if clip is None else str(clip.input[0])

    def values(self, name: str) -> npt.NDArray[Any] | None:
        """What a constant holds; ``None`` where it is computed, or lies outside the file."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        return np.asarray(numpy_helper.to_array(tensor))

    def integer_type(self, node: onnx.NodeProto) -> str:
        """The element type between a QuantizeLinear and its DequantizeLinear: "int8", "float8e4m3fn"."""
        source = node.input[0]
        if node.op_type == DEQUANTISE:
            source = self.stored(source)
            if source in self.constants:
                return _type_name(self.constants[source].data_type)
            maker = self.maker(source, QUANTISE)
            if maker is not None:
                return self.integer_type(maker)
        if len(node.input) > 2 and node.input[2] in self.constants:
            return _type_name(self.constants[node.input[2]].data_type)
        stated = next((each.i for each in node.attribute if each.name == "output_dtype" and each.i), None)
        return _DEFAULT_TYPE if stated is None else _type_name(stated)

    def input_type(self, name: str) -> str:
        """The element type before the DequantizeLinear that feeds a layer, or "float"."""
        dequantise = self.maker(name, DEQUANTISE)
        return "float" if dequantise is None else self.integer_type(dequantise)


def graph_from_onnx(path: Path) -> QdqGraph:
    """The graph of a file.

    Raises:
        ArtifactError: there is no such file, or it is not ONNX.
    """
    if not path.is_file():
        raise ArtifactError(f"there is no model file {path}")
    return QdqGraph(model_from_onnx(path))


def node_name(node: onnx.NodeProto) -> str:
    """What a node is called in messages: its name, or its first output where it has none."""
    return str(node.name or node.output[0])


def _type_name(element_type: int) -> str:
    return str(onnx.TensorProto.DataType.Name(element_type)).lower()
