"""MatMulNBits in the certificate: what the probe finds agrees with arithmetic in NumPy, and nothing else is claimed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines import nbits_probe
from engines.artifact import Artifact
from engines.base import EngineOptions
from engines.macs import layers_from_onnx
from engines.nbits_probe import Product, activation_type
from engines.onnx_file import artifact_from_onnx
from engines.ort_certificate import certify_cpu
from tests.engines.tiny import CLASSES, SIZE, pictures, tensor

Array = npt.NDArray[np.float32]

DEPTH, COLUMNS, BLOCK = 64, 48, 32


def constants(depth: int, columns: int, prefix: str) -> list[onnx.TensorProto]:
    draw = np.random.default_rng(depth)
    codes = draw.integers(0, 256, (columns, depth // BLOCK, BLOCK // 2)).astype(np.uint8)
    scales = draw.uniform(0.01, 0.1, (columns, depth // BLOCK)).astype(np.float32)
    return [numpy_helper.from_array(codes, f"{prefix}_codes"), numpy_helper.from_array(scales, f"{prefix}_scales")]


def product(source: str, target: str, depth: int, columns: int, level: int) -> onnx.NodeProto:
    names = [source, f"{target}_codes", f"{target}_scales"]
    size = {"K": depth, "N": columns, "bits": 4, "block_size": BLOCK, "accuracy_level": level}
    return helper.make_node("MatMulNBits", names, [target], target, domain="com.microsoft", **size)


def network(folder: Path, level: int) -> Artifact:
    """A convolution to 64 tokens of 64 numbers, two MatMulNBits behind each other, and a Gemm."""
    nodes = [
        helper.make_node("Conv", ["x", "stem_w"], ["s"], "stem", strides=[4, 4]),
        helper.make_node("Reshape", ["s", "shape"], ["planes"], "reshape"),
        helper.make_node("Transpose", ["planes"], ["tokens"], "transpose", perm=[0, 2, 1]),
        product("tokens", "first", DEPTH, COLUMNS * 2, level),
        product("first", "second", COLUMNS * 2, DEPTH, level),
        helper.make_node("ReduceMean", ["second"], ["mean"], "mean", axes=[1], keepdims=0),
        helper.make_node("Gemm", ["mean", "head_w"], ["y"], "head"),
    ]
    weights = [
        tensor("stem_w", DEPTH, 3, 4, 4, seed=1),
        numpy_helper.from_array(np.array([0, DEPTH, 64], np.int64), "shape"),
        *constants(DEPTH, COLUMNS * 2, "first"),
        *constants(COLUMNS * 2, DEPTH, "second"),
        tensor("head_w", DEPTH, CLASSES, seed=2),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])]
    graph = helper.make_graph(nodes, "tokens", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    path = folder / "tokens.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), str(path))
    return artifact_from_onnx(path)


def answer(rows: Array, level: int) -> Array:
    inputs = [helper.make_tensor_value_info("a", TensorProto.FLOAT, list(rows.shape))]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    node = product("a", "y", DEPTH, COLUMNS, level)
    graph = helper.make_graph([node], "one", inputs, outputs, constants(DEPTH, COLUMNS, "y"))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"a": rows})[0])


def in_numpy(rows: Array, rounded: bool) -> Array:
    """The product in 64 bits; where asked, each block of a row is first rounded to 127 steps of its largest number,
    and multiplied in whole numbers."""
    codes, scales = (numpy_helper.to_array(each) for each in constants(DEPTH, COLUMNS, "y"))
    whole = np.stack([codes & 15, codes >> 4], axis=-1).reshape(COLUMNS, -1, BLOCK).astype(np.int64) - 8
    blocks = rows.reshape(len(rows), -1, BLOCK).astype(np.float64)
    steps = np.abs(blocks).max(axis=-1) / 127 if rounded else np.ones(blocks.shape[:2])
    values = np.rint(blocks / steps[..., None]) if rounded else blocks
    return np.asarray(np.einsum("rbk,cbk,rb,cb->rc", values, whole, steps, scales.astype(np.float64)), np.float32)


@pytest.mark.parametrize("rows", [1, 5, 64])
@pytest.mark.parametrize("level", [0, 4])
def test_probe_agrees_with_arithmetic_in_numpy(rows: int, level: int) -> None:
    """The kernel reproduces the integer product of rounded activations, or the float product, as the probe says."""
    values = np.random.default_rng(3).normal(size=(rows, DEPTH)).astype(np.float32)
    found = activation_type(Product(rows, DEPTH, COLUMNS, BLOCK, level, False), EngineOptions())
    assert found in (nbits_probe.FLOAT, nbits_probe.INT8)
    got = answer(values, level)
    as_found = np.abs(got - in_numpy(values, found == nbits_probe.INT8)).max()
    as_other = np.abs(got - in_numpy(values, found != nbits_probe.INT8)).max()
    assert as_found < 1e-4
    assert as_other > 20 * as_found


def test_level_0_computes_in_float() -> None:
    assert activation_type(Product(8, DEPTH, COLUMNS, BLOCK, 0, False), EngineOptions()) == nbits_probe.FLOAT


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("depth", [32, 100, 128])
def test_probe_knows_an_answer_for_every_form(depth: int, zeros: bool) -> None:
    for level in (0, 4):
        found = activation_type(Product(3, depth, 7, BLOCK, level, zeros), EngineOptions())
        assert found in (nbits_probe.FLOAT, nbits_probe.INT8)


def test_probe_that_cannot_run_knows_nothing() -> None:
    assert activation_type(Product(3, 64, 7, 7, 0, False), EngineOptions()) == nbits_probe.UNKNOWN


@pytest.mark.parametrize("batch", [1, 3])
def test_float_products_of_4_bit_weights_are_weight_only(tmp_path: Path, batch: int) -> None:
    found = certify_cpu(network(tmp_path, 0), EngineOptions(), {"x": pictures(batch)})
    proofs = {proof.layer: proof for proof in found.layers}
    for name in ("first", "second"):
        assert (proofs[name].kernel, proofs[name].input_types) == ("MatMulNBits", ("float", "int4"))
        assert proofs[name].integer is False
        assert proofs[name].reason == "INT4 is weight-only: its kernel computes in float"
    assert found.evidence["int4_activations_probed"] == {"float": 2}
    assert found.integer_fraction == 0.0
    assert all(proof.kernel for proof in found.layers)


def test_level_4_is_certified_by_what_the_kernel_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = network(tmp_path, 4)
    monkeypatch.setattr("engines.ort_certificate.activation_type", lambda product, options: nbits_probe.INT8)
    found = certify_cpu(artifact, EngineOptions(), {"x": pictures(1)})
    assert [proof.integer for proof in found.layers] == [False, True, True, False]
    assert found.layers[1].input_types == ("int8", "int4")
    assert found.layers[1].reason is None
    assert found.integer_macs == 2 * 64 * DEPTH * COLUMNS * 2
    monkeypatch.setattr("engines.ort_certificate.activation_type", lambda product, options: nbits_probe.UNKNOWN)
    found = certify_cpu(artifact, EngineOptions(), {"x": pictures(1)})
    assert not any(proof.integer for proof in found.layers)
    assert "could not be found out" in str(found.layers[1].reason)


def test_work_is_counted_through_operators_that_onnx_does_not_know(tmp_path: Path) -> None:
    layers = {layer.name: layer for layer in layers_from_onnx(network(tmp_path, 0).path)}
    assert layers["first"].macs == layers["second"].macs == 64 * DEPTH * COLUMNS * 2
    assert layers["head"].macs == DEPTH * CLASSES
    assert (layers["first"].operator, layers["first"].weight) == ("MatMulNBits", "int4")
