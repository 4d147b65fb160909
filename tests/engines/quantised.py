"""Tiny quantised networks, written by hand: which layers are quantised, and with what types, is decided here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.artifact import Artifact
from engines.onnx_file import artifact_from_onnx
from tests.engines.tiny import CLASSES, SIZE, model_of, quantise_and_dequantise, tensor

LAYERS = ("conv1", "conv2", "gemm")
MACS = {"conv1": 16 * 16 * 8 * 3 * 9, "conv2": 16 * 16 * 8 * 8 * 9, "gemm": 8 * CLASSES}


def quantised_artifact(
    folder: Path, quantised: Sequence[str] = LAYERS, *, signed: bool = False, residual: bool = False
) -> Artifact:
    """conv1, conv2, mean over the plane, Gemm; with Q/DQ around the layers that are named.

    Args:
        folder: where the file is written.
        quantised: layers whose input, weight and output are quantised.
        signed: int8 activations instead of uint8.
        residual: conv2's input is added to its output, so that its quantised activation has two readers.
    """
    zero = np.int8(0) if signed else np.uint8(128)
    weights: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def pair(name: str, source: str) -> str:
        if source in {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}:
            return source
        nodes.extend(quantise_and_dequantise(name, source, 0.05, zero, weights))
        return name

    def conv(name: str, source: str, shape: tuple[int, ...], stride: int) -> str:
        given = pair(f"{name}_in", source) if name in quantised else source
        weight = weight_of(name, shape, name in quantised, nodes, weights)
        nodes.append(
            helper.make_node("Conv", [given, weight], [f"{name}_y"], name, pads=[1] * 4, strides=[stride, stride])
        )
        result = pair(f"{name}_out", f"{name}_y") if name in quantised else f"{name}_y"
        if residual and name == "conv2":
            nodes.append(helper.make_node("Add", [result, given], ["sum_y"], "add"))
            result = pair("sum_out", "sum_y")
        return result

    first = conv("conv1", "x", (8, 3, 3, 3), 2)
    second = conv("conv2", first, (8, 8, 3, 3), 1)
    nodes.append(helper.make_node("GlobalAveragePool", [second], ["pooled"], "pool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"))
    given = pair("gemm_in", "flat") if "gemm" in quantised else "flat"
    weight = weight_of("gemm", (CLASSES, 8), "gemm" in quantised, nodes, weights)
    nodes.append(helper.make_node("Gemm", [given, weight], ["y"], "gemm", transB=1))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])]
    path = folder / "quantised.onnx"
    onnx.save(model_of(nodes, inputs, outputs, weights), str(path))
    return artifact_from_onnx(path)


def weight_of(
    name: str, shape: tuple[int, ...], quantised: bool, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto]
) -> str:
    """The name of a layer's weight: float, or int8 behind a DequantizeLinear."""
    values: npt.NDArray[np.float32] = numpy_helper.to_array(tensor("w", *shape, seed=len(name)))
    if not quantised:
        weights.append(numpy_helper.from_array(values, f"{name}_w"))
        return f"{name}_w"
    scale = np.abs(values).max() / 127
    weights += [
        numpy_helper.from_array(np.round(values / scale).astype(np.int8), f"{name}_w_int8"),
        numpy_helper.from_array(np.asarray(scale, np.float32), f"{name}_w_scale"),
        numpy_helper.from_array(np.asarray(0, np.int8), f"{name}_w_zero"),
    ]
    stored = [f"{name}_w_int8", f"{name}_w_scale", f"{name}_w_zero"]
    nodes.append(helper.make_node("DequantizeLinear", stored, [f"{name}_w"], f"{name}_w_dequantise"))
    return f"{name}_w"
