"""Little networks for improvements: a mobile one whose channels differ in size, and a transformer's layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from engines.artifact import Artifact
from engines.onnx_file import artifact_from_onnx
from exporters.base import Calibration, Quantisation, Source
from exporters.calibration import calibrate
from exporters.folding import folded_model
from exporters.improvements.base import Material
from exporters.qdq import onnx_qdq
from exporters.ranges.minmax import MinMax
from harness.exporting import quantisation_target
from tests.engines.tiny import model_of, pictures

Array = npt.NDArray[np.float32]

SIZE, CLASSES, TOKENS, WIDTH = 16, 5, 16, 8
SOURCE = Source("minmax", {}, "", {})
CALIBRATION = pictures(16, seed=11, size=SIZE)


def mobile(folder: Path, *, bias: bool = True, groups: int = 8) -> Artifact:
    """conv, ReLU6, depthwise, ReLU6, pointwise, ReLU, mean pooling, conv in groups, mean of the plane, Gemm.

    The sizes of the channels of every layer differ by factors of up to a hundred.
    """
    draw = np.random.default_rng(5)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        sizes = 10 ** draw.uniform(-1, 1, (shape[0], *[1] * (len(shape) - 1)))
        scale = 0.5 / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array((draw.normal(0, scale, shape) * sizes).astype(np.float32), name)

    weights = [
        weight("w1", 8, 3, 3, 3),
        weight("w2", 8, 8 // groups, 3, 3),
        weight("w3", 12, 8, 1, 1),
        weight("w4", 4, 6, 3, 3),
        weight("w5", CLASSES, 4),
        numpy_helper.from_array(np.float32(0), "zero"),
        numpy_helper.from_array(np.float32(6), "six"),
        *(numpy_helper.from_array(draw.normal(0, 0.3, n).astype(np.float32), f"b{i}") for i, n in ((1, 8), (2, 8))),
        *(numpy_helper.from_array(draw.normal(0, 0.3, n).astype(np.float32), f"b{i}") for i, n in ((3, 12), (4, 4))),
        numpy_helper.from_array(draw.normal(0, 0.3, CLASSES).astype(np.float32), "b5"),
    ]

    def names(index: int) -> list[str]:
        return [f"w{index}", f"b{index}"] if bias else [f"w{index}"]

    nodes = [
        helper.make_node("Conv", ["x", *names(1)], ["c1"], "first", pads=[1] * 4),
        helper.make_node("Clip", ["c1", "zero", "six"], ["r1"], "cap1"),
        helper.make_node(
            "Conv", ["r1", *names(2)], ["c2"], "depthwise", pads=[0, 1, 2, 1], strides=[2, 2], group=groups
        ),
        helper.make_node("Clip", ["c2", "zero", "six"], ["r2"], "cap2"),
        helper.make_node("Conv", ["r2", *names(3)], ["c3"], "pointwise"),
        helper.make_node("Relu", ["c3"], ["r3"], "relu3"),
        helper.make_node("AveragePool", ["r3"], ["a3"], "average", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["a3", *names(4)], ["c4"], "grouped", pads=[2] * 4, dilations=[2, 2], group=2),
        helper.make_node("Relu", ["c4"], ["r4"], "relu4"),
        helper.make_node("GlobalAveragePool", ["r4"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", *names(5)], ["y"], "gemm", transB=1),
    ]
    return stored(folder / "mobile.onnx", nodes, weights)


def transformer(folder: Path, *, decomposed: bool = False, residual: bool = False) -> Artifact:
    """Patches as tokens, a normalisation with three large channels, two products that read it, their sum, the mean.

    Args:
        decomposed: whether the normalisation ends with a Mul and an Add instead of being one node.
        residual: whether what is normalised is also added to the output of the products.
    """
    draw = np.random.default_rng(6)
    scale = draw.uniform(0.5, 1.5, WIDTH)
    scale[[1, 4, 6]] *= 30

    def constant(name: str, values: npt.NDArray[np.float64]) -> onnx.TensorProto:
        return numpy_helper.from_array(values.astype(np.float32), name)

    weights = [
        constant("patch", draw.normal(0, 0.2, (WIDTH, 3, 4, 4))),
        constant("scale", scale),
        constant("offset", draw.normal(0, 0.5, WIDTH)),
        constant("query", draw.normal(0, 0.3, (WIDTH, WIDTH))),
        constant("key", draw.normal(0, 0.3, (WIDTH, WIDTH))),
        constant("head", draw.normal(0, 0.3, (CLASSES, WIDTH))),
        constant("ones", np.ones(WIDTH)),
        numpy_helper.from_array(np.array([0, WIDTH, TOKENS]), "shape"),
    ]
    whole = ["tokens", "ones"] if decomposed else ["tokens", "scale", "offset"]
    nodes = [
        helper.make_node("Conv", ["x", "patch"], ["planes"], "patches", strides=[4, 4]),
        helper.make_node("Reshape", ["planes", "shape"], ["flat"], "reshape"),
        helper.make_node("Transpose", ["flat"], ["tokens"], "transpose", perm=[0, 2, 1]),
        helper.make_node("LayerNormalization", whole, ["plain" if decomposed else "normal"], "norm"),
        helper.make_node("MatMul", ["normal", "query"], ["q"], "queries"),
        helper.make_node("MatMul", ["normal", "key"], ["k"], "keys"),
        helper.make_node("Add", ["q", "k"], ["sum"], "sum"),
        *([helper.make_node("Add", ["sum", "normal"], ["skipped"], "skip")] if residual else []),
        helper.make_node("Tanh", ["skipped" if residual else "sum"], ["t"], "tanh"),
        helper.make_node("Transpose", ["t"], ["channels"], "channels", perm=[0, 2, 1]),
        helper.make_node("GlobalAveragePool", ["channels"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["mean"], "mean"),
        helper.make_node("Gemm", ["mean", "head"], ["y"], "head", transB=1),
    ]
    if decomposed:
        nodes[4:4] = [
            helper.make_node("Mul", ["plain", "scale"], ["scaled"], "scaled"),
            helper.make_node("Add", ["offset", "scaled"], ["normal"], "offset"),
        ]
    return stored(folder / "transformer.onnx", nodes, weights)


def stored(path: Path, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto]) -> Artifact:
    """The network of these nodes, from "x" to "y", as a file."""
    read = {name for node in nodes for name in node.input}
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])
    onnx.save(model_of(nodes, [source], [output], [each for each in weights if each.name in read]), str(path))
    return artifact_from_onnx(path)


def one_by_one() -> list[Array]:
    """The calibration pictures."""
    return [CALIBRATION[index : index + 1] for index in range(len(CALIBRATION))]


def material() -> Material:
    """The calibration pictures, and no bar."""
    return Material(one_by_one, lambda what, items: items)


def calibrated(artifact: Artifact) -> Calibration:
    return calibrate(artifact, one_by_one(), SOURCE, MinMax)


def quantised(artifact: Artifact, target: str = "ort-cpu", weights: str = "per-tensor", bits: int = 8) -> Artifact:
    """The Q/DQ file of a network without improvements."""
    wish = Quantisation(target, weights=weights, weight_bits=bits)
    path = artifact.path.with_suffix(f".{target}.onnx")
    return onnx_qdq(artifact, calibrated(artifact), wish, quantisation_target(target), path)


def loaded(artifact: Artifact) -> onnx.ModelProto:
    model: onnx.ModelProto = onnx.load(str(artifact.path))
    return model


def folded(artifact: Artifact) -> onnx.ModelProto:
    return folded_model(artifact)


def layer_output(model: onnx.ModelProto, name: str) -> npt.NDArray[np.float64]:
    """What the node of a name makes of the calibration pictures, by ONNX's own evaluator."""
    return evaluated(model, next(node for node in model.graph.node if node.name == name).output[0])


def evaluated(model: onnx.ModelProto, tensor: str) -> npt.NDArray[np.float64]:
    """A tensor of a float model or a Q/DQ file on the calibration pictures, by ONNX's own evaluator."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    if tensor not in [output.name for output in tapped.graph.output]:
        tapped.graph.output.append(onnx.ValueInfoProto(name=tensor))
    # The evaluator knows DequantizeLinear from here on; none of the operators in these networks means anything else.
    next(each for each in tapped.opset_import if not each.domain).version = 19
    (values,) = ReferenceEvaluator(tapped).run([tensor], {"x": CALIBRATION})
    return np.asarray(values, np.float64)


def constants(model: onnx.ModelProto) -> dict[str, npt.NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
