"""Simplify: constants computed, batch norms folded, shapes inferred, operators of the version that a target reads."""

from __future__ import annotations

import onnx
import onnx.version_converter
import onnxscript.optimizer
from onnx import helper

from exporters.base import ExportError

_DEFAULT = "noop_with_empty_axes"


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph after ``onnxscript.optimizer.optimize``: folded constants and batch norms, dead nodes gone."""
    optimised: onnx.ModelProto = onnxscript.optimizer.optimize(model)
    return optimised


def with_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The graph with an older set of operators, by ONNX's converter.

    Raises:
        ExportError: an operator has no older form.
    """
    if opset_of(model) == opset:
        return model
    if opset < 18:
        _spell_old_reductions(model)
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(model, opset)
        onnx.checker.check_model(converted)
    except Exception as error:
        reason = str(error).strip().splitlines()[0].rsplit(": ", 1)[-1]
        raise ExportError(
            f"the network cannot be written with opset {opset} ({reason}). Try --exporter torchscript, which writes it "
            f"directly, or --opset {opset_of(model)} if your runtime reads that"
        ) from error
    return converted


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's operators that a model says it needs."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def finished(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with shapes, checked, and without notes on the machine that made it.

    Raises:
        ExportError: ONNX's checker refuses it.
    """
    for entry in list(model.opset_import):
        if entry.domain not in ("", "ai.onnx") and all(node.domain != entry.domain for node in model.graph.node):
            model.opset_import.remove(entry)
    for function in [each for each in model.functions if all(node.domain != each.domain for node in model.graph.node)]:
        model.functions.remove(function)
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
    _without_notes(model)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(inferred, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"PyTorch's exporter made a file that ONNX's checker refuses: {error}") from error
    return inferred


def _without_notes(model: onnx.ModelProto) -> None:
    """Take off what the exporter notes beside every node: lines of source, with the paths of this machine."""
    graph = model.graph
    for holder in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        holder.doc_string = ""
        del holder.metadata_props[:]


def _spell_old_reductions(model: onnx.ModelProto) -> None:
    """Take off an attribute that came with opset 18, where it has its default; ONNX's converter leaves it there."""
    for node in model.graph.node:
        for attribute in [each for each in node.attribute if each.name == _DEFAULT and not each.i]:
            node.attribute.remove(attribute)
