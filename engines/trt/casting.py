"""Casting: the float parts of a graph in half precision, its input and output left as they are.

TensorRT 11 has no flags for precision, and a strongly typed network computes in the types that the graph holds. So an
FP16 plan is built from an FP16 graph.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx.version_converter
from onnx import TensorProto, helper, numpy_helper

from engines.artifact import ArtifactError

HALVES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}

# From this opset on Q/DQ take scales in half precision (ONNX, operators' changelog).
QDQ_OPSET = 19
_QDQ = ("QuantizeLinear", "DequantizeLinear")
_HALF_TYPE = "tensor(float16)"


def model_in_half(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """A copy that computes in half precision.

    Scales of Q/DQ are cast too, for ONNX wants them in the type of the values. They are rounded up: a channel that
    training left nearly dead has a scale below FP16's smallest number (1e-11 in ResNet-18), and a scale must not be 0.

    Args:
        model: float32, with its weights inside.
        precision: row of `HALVES`.

    Raises:
        ArtifactError: a constant does not fit the smaller range, an operator takes no half precision, or the opset is
            too old and cannot be lifted.
    """
    cast = onnx.ModelProto()
    cast.CopyFrom(_with_opset(model))
    graph, half = cast.graph, HALVES[precision]
    opset = next(entry.version for entry in cast.opset_import if entry.domain in ("", "ai.onnx"))
    kept = {name for node in graph.node for name in _float_only(node, opset)}
    makers = {name: node for node in graph.node for name in node.output}
    computed = sorted(name for name in kept if name in makers and makers[name].op_type != "Constant")
    if computed:
        raise ArtifactError(f"{computed[0]!r} is computed for an operator that takes no half precision; build in fp32")
    del graph.value_info[:]
    constants = [tensor for tensor in graph.initializer if tensor.name not in kept]
    constants += [
        attribute.t
        for node in graph.node
        for attribute in node.attribute
        if (node.op_type == "Constant" and attribute.name == "value" and node.output[0] not in kept)
        or (node.op_type == "ConstantOfShape" and attribute.name == "value")
    ]
    scales = {node.input[1] for node in graph.node if node.op_type in _QDQ}
    for tensor in constants:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(_in_half(tensor, half, is_scale=tensor.name in scales))
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = half
    _cast_ends(graph, half)
    return cast


def _with_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in an opset whose Q/DQ take half precision, where it has any."""
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if version >= QDQ_OPSET or not any(node.op_type in _QDQ for node in model.graph.node):
        return model
    try:
        lifted: onnx.ModelProto = onnx.version_converter.convert_version(model, QDQ_OPSET)
    except Exception as error:  # the converter raises whatever its C++ does
        raise ArtifactError(
            f"Q/DQ in half precision needs opset {QDQ_OPSET}; the model has {version}, and ONNX's converter cannot "
            f"lift it ({error}). Export it again with opset {QDQ_OPSET}, or build in fp32"
        ) from error
    return lifted


def _float_only(node: onnx.NodeProto, opset: int) -> Iterator[str]:
    """The inputs that an operator takes in float32 alone, as the scales of a Resize are."""
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    types = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    for place, name in enumerate(node.input):
        declared = schema.inputs[min(place, len(schema.inputs) - 1)].type_str
        allowed = types.get(declared, [declared])
        if name and "tensor(float)" in allowed and _HALF_TYPE not in allowed:
            yield name


def _in_half(tensor: onnx.TensorProto, half: int, *, is_scale: bool) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        cast = values.astype(helper.tensor_dtype_to_np_dtype(half))
    back = cast.astype(np.float32)
    if is_scale:
        cast = np.where(back < values, np.nextafter(cast, np.array(np.inf, cast.dtype)), cast)
    lost = np.isfinite(values) & ~np.isfinite(back)
    if lost.any():
        raise ArtifactError(
            f"the constant {tensor.name!r} holds {values[lost][0]:.3g}, which "
            f"{TensorProto.DataType.Name(half).lower()} cannot hold; build in fp32"
        )
    return numpy_helper.from_array(cast, tensor.name)


def _cast_ends(graph: onnx.GraphProto, half: int) -> None:
    """Casts behind each float input and in front of each float output, so that callers see no difference."""
    constants = {tensor.name for tensor in graph.initializer}
    front, behind = [], []
    for value in graph.input:
        if value.name in constants or value.type.tensor_type.elem_type != TensorProto.FLOAT:
            continue
        name = f"{value.name}_half"
        for node in graph.node:
            node.input[:] = [name if each == value.name else each for each in node.input]
        front.append(helper.make_node("Cast", [value.name], [name], name, to=half))
    for value in graph.output:
        if value.type.tensor_type.elem_type != TensorProto.FLOAT:
            continue
        name = f"{value.name}_half"
        for node in graph.node:
            node.output[:] = [name if each == value.name else each for each in node.output]
            node.input[:] = [name if each == value.name else each for each in node.input]
        behind.append(helper.make_node("Cast", [name], [value.name], f"{value.name}_float", to=TensorProto.FLOAT))
    nodes = [*front, *graph.node, *behind]
    del graph.node[:]
    graph.node.extend(nodes)
