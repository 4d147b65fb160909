"""INT4: the file computes what its codes say, every layer is accounted for, and what cannot work is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.artifact import Artifact, ArtifactError, read_sidecar
from engines.base import EngineOptions
from engines.macs import layers_from_onnx
from engines.onnx_file import artifact_from_onnx
from engines.ort import open_cpu
from engines.ort_certificate import certify_cpu
from exporters.base import ExportError, Quantisation, Source
from exporters.blocks import Grid, blocks_of, decode, encode, matrix_of, rtn
from exporters.calibration import calibrate
from exporters.int4 import int4_weights
from exporters.int4_options import METHODS, Int4Options
from exporters.nbits import matmul_nbits
from exporters.qdq import onnx_qdq
from exporters.ranges.minmax import MinMax
from exporters.targets import ort_cpu, tensorrt
from tests.engines.tiny import CLASSES, SIZE, model_of, pictures, tensor, tiny_artifact

Array = npt.NDArray[np.float32]

PICTURES = pictures(6, seed=4)
LAYERS = {
    "stem": "a convolution of 3 x 3 pixels: no runtime has a 4-bit kernel for it",
    "narrow": "a convolution of 1 x 1 pixels: no runtime has a 4-bit kernel for it, unless it is rewritten as MatMul "
    "(pointwise)",
    "scores": "both factors are computed, as in attention: there is no weight",
    "mixed": "both factors are computed, as in attention: there is no weight",
}
PRODUCTS = ["queries", "values", "wide", "head"]


def attention(tail: Sequence[onnx.NodeProto] = (), extra: Sequence[onnx.TensorProto] = ()) -> onnx.ModelProto:
    """A stem, a convolution of one pixel with stride 2, one head of attention over 16 tokens, and a Gemm."""
    weights = [
        tensor("stem_w", 48, 3, 3, 3, seed=1),
        tensor("stem_b", 48, seed=2),
        tensor("narrow_w", 64, 48, 1, 1, seed=3),
        tensor("narrow_b", 64, seed=4),
        tensor("queries_w", 64, 64, seed=5, scale=0.05),
        tensor("values_w", 64, 64, seed=6, scale=0.1),
        tensor("wide_w", 64, 100, seed=7),
        tensor("head_w", CLASSES, 100, seed=8),
        tensor("head_b", CLASSES, seed=9),
        numpy_helper.from_array(np.array([0, 64, 16], np.int64), "tokens_shape"),
        *extra,
    ]
    nodes = [
        helper.make_node("Conv", ["x", "stem_w", "stem_b"], ["s"], "stem", pads=[1] * 4, strides=[4, 4]),
        helper.make_node("Relu", ["s"], ["sr"], "relu"),
        helper.make_node("Conv", ["sr", "narrow_w", "narrow_b"], ["n"], "narrow", strides=[2, 2]),
        helper.make_node("Reshape", ["n", "tokens_shape"], ["planes"], "reshape"),
        helper.make_node("Transpose", ["planes"], ["t"], "transpose", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "queries_w"], ["q"], "queries"),
        helper.make_node("MatMul", ["q", "planes"], ["a"], "scores"),
        helper.make_node("Softmax", ["a"], ["p"], "softmax"),
        helper.make_node("MatMul", ["t", "values_w"], ["v"], "values"),
        helper.make_node("MatMul", ["p", "v"], ["m"], "mixed"),
        helper.make_node("MatMul", ["m", "wide_w"], ["w"], "wide"),
        helper.make_node("ReduceMean", ["w"], ["f"], "mean", axes=[1], keepdims=0),
        helper.make_node("Gemm", ["f", "head_w", "head_b"], ["y"], "head", transB=1, alpha=0.5, beta=2.0),
        *tail,
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])]
    return model_of(nodes, inputs, outputs, weights)


def stored(model: onnx.ModelProto, folder: Path, name: str = "attention.onnx") -> Artifact:
    onnx.save(model, str(folder / name))
    return artifact_from_onnx(folder / name)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """With everything that a sidecar may declare."""
    return replace(
        stored(attention(), tmp_path),
        preprocessing=({"stage": "decode", "name": "pillow", "params": {}},),
        classes=tuple(f"class {index}" for index in range(CLASSES)),
    )


def made(artifact: Artifact, options: Int4Options, target: str = "ort-cpu") -> Artifact:
    return int4_weights(
        artifact, target, options, artifact.path.with_name(f"int4{options.pointwise}.onnx"), one_by_one(PICTURES)
    )


def one_by_one(batch: Array) -> list[Array]:
    return [batch[index : index + 1] for index in range(len(batch))]


def scores(path: Path, optimised: bool = False) -> Array:
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    if not optimised:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": PICTURES})[0])


def decoded_nbits(node: onnx.NodeProto, constants: dict[str, npt.NDArray[np.generic]]) -> Array:
    """The weight of a MatMulNBits, [K, N], number by number as ONNX Runtime documents the format."""
    size = {each.name: each.i for each in node.attribute}
    codes, scales = constants[node.input[1]], constants[node.input[2]]
    zeros = constants[node.input[3]] if len(node.input) > 3 else None
    weight = np.zeros((size["K"], size["N"]), np.float32)
    for column in range(size["N"]):
        for row in range(size["K"]):
            block, place = divmod(row, size["block_size"])
            code = int(codes[column, block, place // 2]) >> (4 * (place % 2)) & 15
            zero = 8 if zeros is None else int(zeros[column, block // 2]) >> (4 * (block % 2)) & 15
            weight[row, column] = (code - zero) * scales[column, block]
    return weight


def with_float_weights(path: Path) -> Path:
    """The same file with each MatMulNBits as a MatMul of the weight that its codes stand for."""
    model = onnx.load(str(path))
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            name = f"{node.output[0]}_float"
            model.graph.initializer.append(numpy_helper.from_array(decoded_nbits(node, constants), name))
            node.CopyFrom(helper.make_node("MatMul", [node.input[0], name], list(node.output), node.name))
    twin = path.with_name("float_twin.onnx")
    onnx.save(model, str(twin))
    return twin


@pytest.mark.parametrize("pointwise", [False, True])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("block", [32, 64, 128])
def test_file_computes_what_its_codes_say(
    artifact: Artifact, block: int, method: str, symmetric: bool, pointwise: bool
) -> None:
    result = made(artifact, Int4Options(block, symmetric, method, pointwise=pointwise))
    expected = scores(with_float_weights(result.path))
    assert np.allclose(scores(result.path, optimised=True), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    exact = scores(artifact.path)
    assert 0 < np.abs(expected - exact).mean() < 0.5 * exact.std()


@pytest.mark.parametrize("depth", [64, 100, 20])
@pytest.mark.parametrize("symmetric", [True, False])
def test_depth_that_is_no_whole_number_of_blocks_is_filled_up(depth: int, symmetric: bool) -> None:
    weight = numpy_helper.to_array(tensor("w", depth, 7, seed=1))
    values = blocks_of(weight, 32)
    grid = rtn(values, symmetric)
    codes = encode(values, grid)
    node, constants = matmul_nbits(helper.make_node("MatMul", ["a", "w"], ["b"], "product"), codes, grid, depth, 0)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "ab"]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "one", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = np.random.default_rng(0).normal(size=(5, depth)).astype(np.float32)
    expected = rows @ matrix_of(decode(codes, grid), depth)
    assert np.allclose(session.run(None, {"a": rows})[0], expected, atol=1e-4)


@pytest.mark.parametrize("pointwise", [False, True])
@pytest.mark.parametrize("block", [64])
def test_tensorrt_file_is_sound_and_computes_the_same(artifact: Artifact, block: int, pointwise: bool) -> None:
    options = Int4Options(block, pointwise=pointwise)
    blocked = int4_weights(artifact, "tensorrt", options, artifact.path.with_name("tensorrt.onnx"))
    model = onnx.load(str(blocked.path))
    onnx.checker.check_model(model, full_check=True)
    assert {entry.version for entry in model.opset_import if entry.domain == ""} == {21}
    assert {node.domain for node in model.graph.node} == {""}
    names = {each.name: each for each in model.graph.initializer}
    dequantise = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert len(dequantise) == len(blocked.made_by["int4_layers"]) == 3
    for node in dequantise:
        weight, scales = names[node.input[0]], names[node.input[1]]
        assert weight.data_type == TensorProto.INT4
        assert {each.name: each.i for each in node.attribute} == {"axis": 0, "block_size": block}
        assert list(scales.dims) == [weight.dims[0] // block, weight.dims[1]]
        assert (numpy_helper.to_array(scales) > 0).all()
    # The depths of "head" and "narrow" have no whole blocks.
    expected = scores(with_rounded_weights(artifact, ("queries", "values", "wide"), block))
    assert np.allclose(scores(blocked.path), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert np.allclose(scores(blocked.path, optimised=True), expected, atol=0.03 * np.abs(expected).max())


def with_rounded_weights(artifact: Artifact, layers: Sequence[str], block: int) -> Path:
    """The float file with the weights of some products rounded to 4 bits in NumPy."""
    model = onnx.load(str(artifact.path))
    for each in model.graph.initializer:
        if each.name.removesuffix("_w") in layers:
            weight = numpy_helper.to_array(each)
            values = blocks_of(weight, block)
            grid = rtn(values, True)
            each.CopyFrom(
                numpy_helper.from_array(matrix_of(decode(encode(values, grid), grid), len(weight)), each.name)
            )
    path = artifact.path.with_name("rounded.onnx")
    onnx.save(model, str(path))
    return path


def test_rewritten_convolution_with_a_stride_gives_the_same_answers(artifact: Artifact) -> None:
    with_it = made(artifact, Int4Options(pointwise=True))
    without = made(artifact, Int4Options(pointwise=False))
    assert set(with_it.made_by["int4_layers"]) - set(without.made_by["int4_layers"]) == {"narrow"}
    operators = [node.op_type for node in onnx.load(str(with_it.path)).graph.node]
    assert (operators.count("Slice"), operators.count("Conv")) == (1, 1)
    weight = numpy_helper.to_array(tensor("narrow_w", 64, 48, 1, 1, seed=3))[:, :, 0, 0].T
    values = blocks_of(weight, 32)
    grid = rtn(values, True)
    rounded = matrix_of(decode(encode(values, grid), grid), 48).T[:, :, None, None]
    model = onnx.load(str(without.path))
    for each in model.graph.initializer:
        if list(each.dims) == [64, 48, 1, 1]:
            each.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(rounded), each.name))
    onnx.save(model, str(artifact.path.with_name("by_hand.onnx")))
    expected = scores(artifact.path.with_name("by_hand.onnx"))
    assert np.allclose(scores(with_it.path), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_every_layer_is_accounted_for(artifact: Artifact) -> None:
    result = made(artifact, Int4Options())
    declared = read_sidecar(result.path)["made_by"]
    assert declared == json.loads(json.dumps(result.made_by))
    assert declared["int4_layers"] == PRODUCTS
    assert {each["layer"]: each["reason"] for each in declared["other_layers"]} == LAYERS
    assert declared["parent_sha256"] == artifact.sha256
    assert (declared["method"], declared["block"], declared["symmetric"]) == ("rtn", 32, True)
    assert artifact_from_onnx(result.path) == result
    assert (result.preprocessing, result.classes) == (artifact.preprocessing, artifact.classes)


def test_tensorrt_names_the_layers_whose_depth_has_no_whole_blocks(artifact: Artifact) -> None:
    declared = made(artifact, Int4Options(64), "tensorrt").made_by
    assert declared["int4_layers"] == ["queries", "values", "wide"]
    reasons = {each["layer"]: each["reason"] for each in declared["other_layers"]}
    assert reasons["head"] == "TensorRT takes whole blocks only: its depth 100 is not divisible by 64"


def test_methods_that_look_at_pictures_use_all_of_them(artifact: Artifact) -> None:
    assert made(artifact, Int4Options(method="awq-clip")).made_by["pictures"] == len(PICTURES)
    assert made(artifact, Int4Options(method="rtn")).made_by["pictures"] == 0


def test_weights_are_smaller_on_disk(artifact: Artifact) -> None:
    assert made(artifact, Int4Options()).path.stat().st_size < artifact.path.stat().st_size


def test_accuracy_level_is_written_for_the_kernel(artifact: Artifact) -> None:
    nodes = onnx.load(str(made(artifact, Int4Options(accuracy_level=4)).path)).graph.node
    levels = {each.i for node in nodes for each in node.attribute if each.name == "accuracy_level"}
    assert levels == {4}


def test_rest_becomes_int8_by_the_function_that_is_given(artifact: Artifact) -> None:
    def quantise_rest(halfway: Artifact, path: Path) -> Artifact:
        calibration = calibrate(halfway, one_by_one(PICTURES), Source("minmax", {}, "", {}), MinMax)
        return onnx_qdq(halfway, calibration, Quantisation("ort-cpu"), ort_cpu(), path)

    options = Int4Options(rest="int8", pointwise=True)
    path = artifact.path.with_name("int4.int8.onnx")
    result = int4_weights(artifact, "ort-cpu", options, path, quantise_rest=quantise_rest)
    operators = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert operators.count("MatMulNBits") == 5
    assert "QuantizeLinear" in operators
    assert result.made_by["parent_sha256"] == artifact.sha256
    assert artifact_from_onnx(path) == result
    exact = scores(artifact.path)
    assert np.abs(scores(path, optimised=True) - exact).mean() < 0.3 * exact.std()


def test_rest_becomes_int8_for_tensorrt_and_int4_layers_are_left_alone(artifact: Artifact) -> None:
    def quantise_rest(halfway: Artifact, path: Path) -> Artifact:
        calibration = calibrate(halfway, one_by_one(PICTURES), Source("minmax", {}, "", {}), MinMax)
        return onnx_qdq(halfway, calibration, Quantisation("tensorrt"), tensorrt(), path)

    options = Int4Options(block=64, rest="int8")
    path = artifact.path.with_name("int4.int8.onnx")
    made_file = int4_weights(artifact, "tensorrt", options, path, quantise_rest=quantise_rest)
    assert made_file.session_config, "on ONNX Runtime its float products would become INT8"
    model = onnx.load(str(path))
    onnx.checker.check_model(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    blocked = [
        node
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm") and constants.get(makers[node.input[1]].input[0]) == onnx.TensorProto.INT4
    ]
    assert blocked
    for node in blocked:
        activation = makers.get(node.input[0])
        assert activation is None or activation.op_type != "DequantizeLinear", "an INT4 layer got INT8 activations"
    assert "QuantizeLinear" in {node.op_type for node in model.graph.node}


REFUSED_OPTIONS = [
    ({"block": 48}, "block: expected one of 32, 64, 128; got 48"),
    ({"block": True}, "block: expected one of 32, 64, 128; got True"),
    ({"method": "awq"}, "method: expected one of rtn, hqq, awq-clip; got 'awq'; did you mean"),
    ({"method": "hq"}, "did you mean hqq?"),
    ({"accuracy_level": 1}, "accuracy_level: expected one of 0, 4; got 1"),
    ({"rest": "int4"}, "rest: expected one of float, int8; got 'int4'; did you mean int8?"),
    ({"symmetric": 1}, "symmetric: expected one of True, False; got 1"),
    ({"pointwise": "yes"}, "pointwise: expected one of True, False; got 'yes'"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED_OPTIONS)
def test_options_that_mean_nothing_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ExportError) as caught:
        Int4Options(**values)  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("tensorrt", Int4Options(), "block: TensorRT takes 64 or 128 for INT4; got 32"),
        ("tensorrt", Int4Options(64, symmetric=False), "symmetric: TensorRT takes INT4 with zero points of 0 only"),
        ("tensorrt", Int4Options(64, accuracy_level=4), "accuracy_level: it belongs to ONNX Runtime's MatMulNBits"),
        ("tensorrt", Int4Options(128), "has no layer that can have 4-bit weights"),
        ("tensorrt", Int4Options(128), "its depth 64 is not divisible by 128"),
        ("ort-gpu", Int4Options(), "target: expected one of ort-cpu, tensorrt; got 'ort-gpu'; did you mean ort-cpu?"),
        ("ort-cpu", Int4Options(method="awq-clip"), "awq-clip looks at calibration pictures; give a folder of them"),
        ("ort-cpu", Int4Options(rest="int8"), "rest=int8 needs to be told how"),
    ],
)
def test_what_a_target_cannot_do_is_refused(
    artifact: Artifact, target: str, options: Int4Options, message: str
) -> None:
    with pytest.raises(ExportError) as caught:
        int4_weights(artifact, target, options, artifact.path.with_name("int4.onnx"))
    assert message in str(caught.value)
    assert not artifact.path.with_name("int4.onnx").exists()


def test_no_pictures_at_all_are_refused(artifact: Artifact) -> None:
    with pytest.raises(ExportError, match="at least one calibration picture; got none"):
        int4_weights(artifact, "ort-cpu", Int4Options(method="awq-clip"), artifact.path.with_name("b.onnx"), [])


@pytest.mark.parametrize(("target", "block"), [("ort-cpu", 32), ("tensorrt", 64)])
def test_model_with_4_bit_weights_is_refused(artifact: Artifact, target: str, block: int) -> None:
    result = made(artifact, Int4Options(block), target)
    with pytest.raises(ExportError, match=r"int4False\.onnx is quantised already \(it holds (MatMulNBits|Dequantize)"):
        int4_weights(result, target, Int4Options(block), artifact.path.with_name("twice.onnx"))


def test_network_without_products_is_refused_with_every_reason(tmp_path: Path) -> None:
    model = onnx.load(str(tiny_artifact(tmp_path).path))
    weight = next(each for each in model.graph.initializer if each.name == "w3")
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    values = numpy_helper.to_array(weight)[:, :, None, None]
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), "w3"))
    gemm.CopyFrom(helper.make_node("Conv", ["p", "w3", "b3"], ["g4"], "head"))
    flatten = next(node for node in model.graph.node if node.op_type == "Flatten")
    model.graph.node.remove(flatten)
    output = model.graph.node.pop()
    model.graph.node.append(helper.make_node("Flatten", ["g4"], list(output.output), "flatten"))
    onnx.checker.check_model(model)
    bare = stored(model, tmp_path, "bare.onnx")
    with pytest.raises(ExportError, match=r"2 x a convolution of 3 x 3 pixels.*1 x a convolution of 1 x 1 pixels"):
        int4_weights(bare, "ort-cpu", Int4Options(), tmp_path / "out.onnx")
    result = int4_weights(bare, "ort-cpu", Int4Options(pointwise=True), tmp_path / "out.onnx")
    assert result.made_by["int4_layers"] == ["head"]


def test_half_precision_is_refused(tmp_path: Path) -> None:
    model = attention()
    for each in model.graph.initializer:
        if each.data_type == TensorProto.FLOAT:
            each.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(each).astype(np.float16), each.name))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    with pytest.raises(ArtifactError, match="expected one input, float32"):
        stored(model, tmp_path)


def test_half_precision_weights_behind_float_inputs_are_refused(tmp_path: Path) -> None:
    model = attention()
    half = numpy_helper.to_array(tensor("wide_w", 64, 100, seed=7)).astype(np.float16)
    model.graph.initializer.append(numpy_helper.from_array(half, "half"))
    model.graph.node.insert(0, helper.make_node("Cast", ["half"], ["wide_float"], "up", to=TensorProto.FLOAT))
    next(node for node in model.graph.node if node.name == "wide").input[1] = "wide_float"
    with pytest.raises(ExportError, match=r"1 weights of .* are in half precision; export the model in float32"):
        made(stored(model, tmp_path), Int4Options())


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = attention()
    for each in model.graph.initializer:
        if each.name == "wide_w":
            each.CopyFrom(numpy_helper.from_array(np.full((64, 100), np.nan, np.float32), "wide_w"))
    with pytest.raises(ExportError, match="the weight of wide holds numbers that are not finite"):
        made(stored(model, tmp_path), Int4Options())


def test_grid_without_zero_points_needs_none(artifact: Artifact) -> None:
    nodes = onnx.load(str(made(artifact, Int4Options()).path)).graph.node
    assert {len(node.input) for node in nodes if node.op_type == "MatMulNBits"} == {3}
    nodes = onnx.load(str(made(artifact, Int4Options(symmetric=False)).path)).graph.node
    assert {len(node.input) for node in nodes if node.op_type == "MatMulNBits"} == {4}


def test_engine_opens_the_file(artifact: Artifact) -> None:
    engine = open_cpu(made(artifact, Int4Options()), EngineOptions())
    assert engine.run({"x": PICTURES})["y"].shape == (len(PICTURES), CLASSES)


@pytest.mark.parametrize("target", ["ort-cpu", "tensorrt"])
def test_certificate_shows_every_layer_with_its_kernel(artifact: Artifact, target: str) -> None:
    """Behind DequantizeLinear too: ONNX Runtime makes a MatMulNBits of the pair, at a level of its choice."""
    result = made(artifact, Int4Options(64), target)
    found = certify_cpu(result, EngineOptions(), {"x": PICTURES[:2]})
    proofs = {proof.layer: proof for proof in found.layers}
    assert found.total_macs == sum(layer.macs for layer in layers_from_onnx(artifact.path))
    for name in result.made_by["int4_layers"]:
        assert proofs[name].kernel == "MatMulNBits"
        assert proofs[name].input_types[1] == "int4"
        assert proofs[name].integer == (proofs[name].input_types[0] == "int8")
    for each in result.made_by["other_layers"]:
        assert proofs[each["layer"]].kernel is not None
        assert proofs[each["layer"]].input_types == ("float", "float")
        assert proofs[each["layer"]].integer is False


def test_grid_is_data() -> None:
    grid = rtn(np.zeros((1, 1, 32), np.float32), True)
    assert isinstance(grid, Grid)
    assert grid.scales.tolist() == [[1.0]]
