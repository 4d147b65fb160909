"""Folding: the float model as integers will see it, batch norms in the weights and constants computed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import onnx.version_converter
import onnxruntime as ort

from engines.artifact import Artifact
from engines.onnx_file import external_files
from engines.ort import CPU, OrtFailure
from exporters.base import ExportError

# Q/DQ with one scale per channel came with this version of ONNX's operators.
OPSET = 13

_CONTROL_FLOW = {"If", "Loop", "Scan"}
_HALF = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_LIMIT_BYTES = 2 << 30


def folded_model(artifact: Artifact) -> onnx.ModelProto:
    """The model with batch norms folded into convolutions, constants computed, and a name for every node.

    A batch norm left on its own would be quantised as a layer of its own, between a convolution and the ReLU that
    belongs to it: the convolution's integer kernel would then not be followed by an integer ReLU.

    Raises:
        ExportError: the model is quantised already, has control flow or half-precision weights, is larger than a
            protocol buffer, has operators older than can be converted, or ONNX Runtime refuses it.
    """
    model = _checked(artifact)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        try:
            # From memory, so that weights beside the model end up inside the folded file.
            ort.InferenceSession(model.SerializeToString(), options, providers=[CPU])
        except OrtFailure as error:
            raise ExportError(f"ONNX Runtime {ort.__version__} cannot open {artifact.path}: {error}") from error
        folded = onnx.load(str(path))
    for node in folded.graph.node:
        node.name = node.name or node.output[0]
    return folded


def _checked(artifact: Artifact) -> onnx.ModelProto:
    name = artifact.path.name
    weights = external_files(artifact.path, onnx.load(str(artifact.path), load_external_data=False))
    size_bytes = sum(file.stat().st_size for file in (artifact.path, *weights))
    if size_bytes >= _LIMIT_BYTES:
        raise ExportError(
            f"{name} and its weights hold {size_bytes / 2**30:.1f} GiB; expected less than 2 GiB, the limit of a "
            f"protocol buffer. Quantise it with the tool that exported it, and give the Q/DQ file"
        )
    model = onnx.load(str(artifact.path))
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise ExportError(f"{name} is quantised already; give the float model that it was made from")
    control = sorted({node.op_type for node in model.graph.node} & _CONTROL_FLOW)
    if control:
        raise ExportError(
            f"{name} has control flow ({', '.join(control)}); expected a plain feed-forward graph. "
            f"Export it with fixed shapes, by tracing"
        )
    halves = sum(tensor.data_type in _HALF for tensor in model.graph.initializer)
    if halves:
        raise ExportError(f"{halves} weights of {name} are in half precision; export the model in float32")
    return _with_opset(model, name)


def _with_opset(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), OPSET)
    if version >= OPSET:
        return model
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(model, OPSET)
        onnx.checker.check_model(converted)
    except Exception as error:
        raise ExportError(
            f"{name} has opset {version}; expected {OPSET} or newer, and ONNX's converter cannot lift it ({error}). "
            f"Export the model again"
        ) from error
    return converted
