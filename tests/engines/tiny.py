"""Tiny networks: a residual one as ONNX, small enough to check by hand, and the ways in which an export can differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from engines.artifact import Artifact
from engines.onnx_file import artifact_from_onnx

Array = npt.NDArray[np.float32]

CLASSES = 10
SIZE = 32


@dataclass(frozen=True)
class Shape:
    """How an export of the same little network may differ; the defaults are what the harness accepts.

    Args:
        batch: the length that the file insists on, or the name of a free one.
        height, width, channels: of the input.
        nhwc: channels last, a Transpose in front.
        tail: operators behind the last Gemm.
        dtype: element type of the input; the network computes in float32 all the same.
        inputs: number of inputs; those beyond the first are added to it.
        batch_norm: batch norms behind the convolutions.
    """

    batch: int | str = "N"
    height: int | str = SIZE
    width: int | str = SIZE
    channels: int | str = 3
    nhwc: bool = False
    tail: tuple[str, ...] = ()
    dtype: int = TensorProto.FLOAT
    inputs: int = 1
    batch_norm: bool = False


def tensor(name: str, *shape: int, seed: int, scale: float = 0.3) -> onnx.TensorProto:
    """Weights that are always the same."""
    values = np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def tiny(shape: Shape = Shape()) -> onnx.ModelProto:
    """conv1 (3 to 8, stride 2), ReLU, conv2 (8 to 8) added to its input, ReLU, mean over the plane, Gemm to 10."""
    axes: list[int | str] = [shape.channels, shape.height, shape.width]
    dims = [shape.batch, *axes[1:], axes[0]] if shape.nhwc else [shape.batch, *axes]
    names = [f"x{index}" if index else "x" for index in range(shape.inputs)]
    nodes = []
    current = names[0]
    for index, name in enumerate(names[1:]):
        nodes.append(helper.make_node("Add", [current, name], [f"sum{index}"]))
        current = f"sum{index}"
    if shape.dtype != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [current], ["floats"], to=TensorProto.FLOAT))
        current = "floats"
    if shape.nhwc:
        nodes.append(helper.make_node("Transpose", [current], ["planes"], perm=[0, 3, 1, 2]))
        current = "planes"
    weights = [
        tensor("w1", 8, shape.channels if isinstance(shape.channels, int) else 3, 3, 3, seed=1),
        tensor("b1", 8, seed=2),
        tensor("w2", 8, 8, 3, 3, seed=3, scale=0.15),
        tensor("b2", 8, seed=4),
        tensor("w3", CLASSES, 8, seed=5, scale=0.8),
        tensor("b3", CLASSES, seed=6),
    ]
    nodes += [
        helper.make_node("Conv", [current, "w1", "b1"], ["c1"], "conv1", pads=[1] * 4, strides=[2, 2]),
        *_batch_norm(shape, "c1", "n1", weights),
        helper.make_node("Relu", ["n1" if shape.batch_norm else "c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "conv2", pads=[1] * 4),
        *_batch_norm(shape, "c2", "n2", weights),
        helper.make_node("Add", ["n2" if shape.batch_norm else "c2", "r1"], ["s"], "add"),
        helper.make_node("Relu", ["s"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["g"], "gemm", transB=1),
    ]
    current = "g"
    for index, operator in enumerate(shape.tail):
        nodes.append(helper.make_node(operator, [current], [f"t{index}"]))
        current = f"t{index}"
    nodes.append(helper.make_node("Identity", [current], ["y"], "out"))
    values = [helper.make_tensor_value_info(name, shape.dtype, dims) for name in names]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape.batch, CLASSES])
    return model_of(nodes, values, [output], weights)


def _batch_norm(shape: Shape, source: str, target: str, weights: list[onnx.TensorProto]) -> list[onnx.NodeProto]:
    if not shape.batch_norm:
        return []
    draw = np.random.default_rng(len(weights))
    names = [f"{target}_{part}" for part in ("scale", "bias", "mean", "variance")]
    for name, low in zip(names, (0.5, -0.2, -0.2, 0.5), strict=True):
        weights.append(numpy_helper.from_array(draw.uniform(low, low + 1.0, 8).astype(np.float32), name))
    return [helper.make_node("BatchNormalization", [source, *names], [target], target)]


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: list[onnx.TensorProto],
) -> onnx.ModelProto:
    """A checked model of these nodes."""
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def write_tiny(folder: Path, shape: Shape = Shape(), name: str = "tiny.onnx") -> Path:
    """Store a tiny network; returns its path."""
    path = folder / name
    onnx.save(tiny(shape), str(path))
    return path


def tiny_artifact(folder: Path, shape: Shape = Shape()) -> Artifact:
    """A stored tiny network, opened."""
    return artifact_from_onnx(write_tiny(folder, shape))


def pictures(count: int, seed: int = 0, size: int = SIZE) -> Array:
    """What a network is fed: normalised pictures, planes first."""
    return np.random.default_rng(seed).normal(0, 1, (count, 3, size, size)).astype(np.float32)


def reference(path: Path, feeds: dict[str, Array]) -> Array:
    """The output by ONNX's own evaluator, which is written in NumPy and shares nothing with an engine."""
    (result,) = ReferenceEvaluator(str(path)).run(None, dict(feeds))
    return np.asarray(result, np.float32)


def quantise_and_dequantise(
    name: str, source: str, scale: float, zero: Any, weights: list[onnx.TensorProto]
) -> list[onnx.NodeProto]:
    """A QuantizeLinear and a DequantizeLinear behind ``source``; the result is called ``name``."""
    weights.append(numpy_helper.from_array(np.asarray(scale, np.float32), f"{name}_scale"))
    weights.append(numpy_helper.from_array(np.asarray(zero), f"{name}_zero"))
    extra = [f"{name}_scale", f"{name}_zero"]
    return [
        helper.make_node("QuantizeLinear", [source, *extra], [f"{name}_q"], f"{name}_quantise"),
        helper.make_node("DequantizeLinear", [f"{name}_q", *extra], [name], f"{name}_dequantise"),
    ]


def with_external_weights(folder: Path, location: str) -> Path:
    """A tiny network whose weights lie in another file, wherever the network says that it is."""
    model = tiny()
    path = folder / "external.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    stored = onnx.load(str(path), load_external_data=False)
    for tensor in stored.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(stored.SerializeToString())
    return path
