"""Node: what an operator's function is told about the place in the graph at which it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from exporters.base import ExportError

# The function of an operator: (node, inputs in the order of ONNX, None for one that is left out) -> its output or
# outputs. One that has more outputs in ONNX than it returns here is refused where a later node reads them.
Operator: TypeAlias = "Callable[..., Tensor | tuple[Tensor, ...]]"

# Torch computes with no unsigned integers but bytes and has none of four bits: they live in the next wider type.
DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.BOOL: torch.bool,
    TensorProto.INT4: torch.int8,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT4: torch.uint8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.int32,
    TensorProto.UINT32: torch.int64,
    TensorProto.UINT64: torch.int64,
}


@dataclass(frozen=True)
class Node:
    """One node of a graph, without its tensors.

    Args:
        operator: its type, as ONNX calls it.
        domain: "" for ONNX's own operators.
        opset: the version of the domain that the model imports; it decides what the operator means.
        name: of the node, or of its first output where it has none.
        attributes: name -> number, text, list of these, or a tensor.
        types: ONNX's element types of the inputs that are constants or the graph's own; 0 for any other.
        outputs: how many it names.
    """

    operator: str
    domain: str
    opset: int
    name: str
    attributes: Mapping[str, Any]
    types: tuple[int, ...] = ()
    outputs: int = 1

    def get(self, name: str, default: Any) -> Any:
        """An attribute, or what it is where the file does not say."""
        return self.attributes.get(name, default)

    def refusal(self, what: str) -> ExportError:
        """The error that says what of this node the twin cannot do."""
        return ExportError(f"{self.place} has {what}; the twin cannot compute that")

    @property
    def place(self) -> str:
        """The node in words."""
        return f"{self.operator} ({self.domain or 'ai.onnx'}, opset {self.opset}) at node {self.name!r}"


def node_from_onnx(node: onnx.NodeProto, opset: int, types: Mapping[str, int]) -> Node:
    """What a node says of itself.

    Args:
        opset: that its domain has in the model.
        types: name of a constant or an input of the graph -> its element type.
    """
    return Node(
        node.op_type,
        "" if node.domain == "ai.onnx" else node.domain,
        opset,
        node.name or node.output[0],
        {attribute.name: _value(attribute) for attribute in node.attribute},
        tuple(types.get(name, 0) for name in node.input),
        len(node.output),
    )


def tensor_from_onnx(tensor: onnx.TensorProto) -> Tensor:
    """A constant as torch holds it; `DTYPES` says in which type.

    Raises:
        ExportError: texts, complex numbers or floats of 8 bits.
    """
    if tensor.data_type not in DTYPES:
        kind = TensorProto.DataType.Name(tensor.data_type)
        raise ExportError(f"the constant {tensor.name!r} is of type {kind}, with which the twin cannot compute")
    values = np.asarray(numpy_helper.to_array(tensor))
    dtype = DTYPES[tensor.data_type]
    if dtype is torch.bfloat16:  # NumPy has none
        return torch.from_numpy(values.astype(np.float32)).to(dtype)
    return torch.from_numpy(np.array(values.astype(str(dtype).removeprefix("torch."))))


def integers(values: Tensor | Sequence[int]) -> list[int]:
    """A tensor or an attribute of whole numbers, as a list."""
    return [int(each) for each in (values.reshape(-1).tolist() if isinstance(values, Tensor) else values)]


def _value(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [each.decode() for each in value]
    return tensor_from_onnx(value) if isinstance(value, onnx.TensorProto) else value
