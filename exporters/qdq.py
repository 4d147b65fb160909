"""Q/DQ: one calibration becomes an INT8 file for one target."""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from engines.artifact import Artifact
from engines.macs import MAC_OPERATORS
from exporters.base import (
    ASYMMETRIC,
    PER_CHANNEL,
    SYMMETRIC,
    Calibration,
    ExportError,
    Quantisation,
    check_model,
    made_from,
)
from exporters.folding import folded_model
from exporters.targets import Target
from exporters.written import written_model

# From 1.21 on, ONNX Runtime quantises the weights of a layer between Q/DQ pairs by itself, with one scale per tensor.
KEEP_FLOAT = {"optimization.disable_specified_optimizers": "WeightBiasQuantization"}


def onnx_qdq(
    artifact: Artifact, calibration: Calibration, quantisation: Quantisation, target: Target, path: Path
) -> Artifact:
    """Write ``path``: the model with Q/DQ nodes for ``target``, and its sidecar.

    The network's output stays float: rounding the logits to 255 levels would make ties between classes.

    Args:
        artifact: the float model; the new file inherits its preprocessing, classes and output kind.
        calibration: of that model.
        quantisation: what becomes integers.
        target: what ``quantisation.target`` names.

    Raises:
        ExportError: the calibration was measured on another model, the target refuses the wish, or a pattern matches
            no node.
    """
    check_model(calibration, artifact.sha256, artifact.path)
    symmetric = _symmetric(quantisation, target)
    folded = folded_model(artifact)
    kept = [*nodes_matching(folded, quantisation.keep_float), *_with_integer_weights(folded)]
    model = _quantised(folded, calibration, replace(quantisation, keep_float=tuple(kept)), target)
    _float_output(model.graph)
    if target.float_sums:
        _float_sums(model.graph)
    made_by = {
        "tool": f"onnxruntime.quantization {ort.__version__}",
        "parent_sha256": artifact.sha256,
        "activation": f"{target.activation}, {SYMMETRIC if symmetric else ASYMMETRIC}",
        "weight": f"{target.weight}, {quantisation.weights}",
        "weight_bits": 7 if _seven_bits(quantisation, target) else 8,
        "kept_float": kept,
        **({"session_config": KEEP_FLOAT} if kept else {}),
        **made_from(calibration, quantisation),
    }
    return written_model(model, artifact, made_by, path)


def nodes_matching(model: onnx.ModelProto, patterns: Sequence[str]) -> list[str]:
    """The names of the nodes that any of the patterns matches, in graph order.

    Raises:
        ExportError: a pattern matches none.
    """
    names = [node.name for node in model.graph.node]
    shown = {name: shown_name(name) for name in names}
    for pattern in patterns:
        if not fnmatch.filter(shown.values(), pattern):
            layers = ", ".join(shown[node.name] for node in model.graph.node if node.op_type in MAC_OPERATORS)
            raise ExportError(f"no node is called {pattern!r}; the layers are {layers}")
    return [name for name in names if any(fnmatch.fnmatchcase(shown[name], pattern) for pattern in patterns)]


def _with_integer_weights(model: onnx.ModelProto) -> list[str]:
    """The layers whose weights are integers already, in blocks of 4 bits."""
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    layers = (node for node in model.graph.node if node.op_type in MAC_OPERATORS)
    return [node.name for node in layers if makers.get(node.input[1]) == "DequantizeLinear"]


def layer_groups(artifact: Artifact) -> dict[str, tuple[str, ...]]:
    """Layer -> the nodes that become integers together: itself and the ReLU or Clip that alone reads it.

    The keys are the names of a float model's layers with multiply-accumulates, in graph order; the values are for
    `Quantisation.only`.
    """
    nodes = folded_model(artifact).graph.node
    groups = {}
    for layer in nodes:
        if layer.op_type in MAC_OPERATORS:
            readers = [node for node in nodes if layer.output[0] in node.input]
            fused = [node.name for node in readers if len(readers) == 1 and node.op_type in ("Relu", "Clip")]
            groups[shown_name(layer.name)] = (layer.name, *fused)
    return groups


def shown_name(name: str) -> str:
    """A node's name without what ONNX Runtime appends when it moves the node."""
    return re.sub(r"_token_\d+$", "", name)


def _symmetric(quantisation: Quantisation, target: Target) -> bool:
    if quantisation.activations == ASYMMETRIC and not target.asymmetric_allowed:
        raise ExportError(
            f"the target {quantisation.target} takes symmetric activations only, with zero points of 0; leave "
            f"'asymmetric' out"
        )
    return quantisation.activations == SYMMETRIC or (not quantisation.activations and target.symmetric)


def _seven_bits(quantisation: Quantisation, target: Target) -> bool:
    return quantisation.weight_bits == 7 if quantisation.weight_bits else target.reduce_range


def _quantised(
    folded: onnx.ModelProto, calibration: Calibration, quantisation: Quantisation, target: Target
) -> onnx.ModelProto:
    ranges = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in calibration.ranges.items()
    }
    with quiet_quantiser():
        quantiser = QDQQuantizer(
            folded,
            per_channel=quantisation.weights == PER_CHANNEL,
            reduce_range=_seven_bits(quantisation, target),
            weight_qType=target.weight,
            activation_qType=target.activation,
            tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
            nodes_to_quantize=list(quantisation.only),
            nodes_to_exclude=list(quantisation.keep_float),
            op_types_to_quantize=list(target.operators),
            extra_options={**target.options, "ActivationSymmetric": _symmetric(quantisation, target)},
        )
        quantiser.quantize_model()
        quantiser.model.topological_sort()
    model: onnx.ModelProto = quantiser.model.model
    return model


def _float_output(graph: onnx.GraphProto) -> None:
    """Take the last QuantizeLinear and DequantizeLinear off each output of the graph."""
    makers = {name: node for node in graph.node for name in node.output}
    for output in graph.output:
        dequantise = makers.get(output.name)
        if dequantise is None or dequantise.op_type != "DequantizeLinear":
            continue
        quantise = makers.get(dequantise.input[0])
        if quantise is None or quantise.op_type != "QuantizeLinear":
            continue
        source = quantise.input[0]
        readers = [node for node in graph.node if source in node.input]
        if len(readers) == 1 and source in makers:
            maker = makers[source]
            maker.output[list(maker.output).index(source)] = output.name
            graph.node.remove(quantise)
            graph.node.remove(dequantise)
    _drop_unread(graph)


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Take out constants that nothing reads any more."""
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _float_sums(graph: onnx.GraphProto) -> None:
    """Take the Q/DQ pair off the one input of each Add that comes straight from a layer, the last such layer.

    TensorRT adds inside that layer, and wants the other input, the residual, as integers. A second pair between layer
    and Add would break the fusion.
    """
    makers = {name: node for node in graph.node for name in node.output}
    order = {node.name: index for index, node in enumerate(graph.node)}
    for add in [node for node in graph.node if node.op_type == "Add"]:
        straight = []
        for place, name in enumerate(add.input):
            pair = _pair_before(name, makers)
            layer = makers.get(pair[0].input[0]) if pair else None
            if pair and layer is not None and layer.op_type in MAC_OPERATORS:
                straight.append((order[layer.name], place, pair))
        if not straight:
            continue
        _, place, (quantise, dequantise) = max(straight, key=lambda found: found[0])
        add.input[place] = quantise.input[0]
        for node in (dequantise, quantise):
            if not any(node.output[0] in other.input for other in graph.node):
                graph.node.remove(node)


def _pair_before(name: str, makers: dict[str, onnx.NodeProto]) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    dequantise = makers.get(name)
    if dequantise is None or dequantise.op_type != "DequantizeLinear":
        return None
    quantise = makers.get(dequantise.input[0])
    return (quantise, dequantise) if quantise is not None and quantise.op_type == "QuantizeLinear" else None


@contextlib.contextmanager
def quiet_quantiser() -> Iterator[None]:
    """Silence the quantiser's advice, on the root logger, to fold constants: that has been done."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
