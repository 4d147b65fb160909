"""Multiply-accumulates against numbers counted by hand and by brute force, and layers as the file describes them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from engines.macs import MAC_OPERATORS, layers_from_onnx, macs_of
from tests.engines.quantised import LAYERS, MACS, quantised_artifact
from tests.engines.tiny import CLASSES, Shape, model_of, tensor, write_tiny

# A loaded machine is slow, not wrong; and a test that fails must fail again.
unhurried = settings(deadline=None, derandomize=True)

small = st.integers(1, 4)


@pytest.mark.parametrize(
    ("operator", "inputs", "output", "expected"),
    [
        # the first layer of ResNet-50: 112 x 112 outputs, 64 filters of 3 x 7 x 7
        ("Conv", [(1, 3, 224, 224), (64, 3, 7, 7)], (1, 64, 112, 112), 118_013_952),
        # depthwise: every filter sees one channel
        ("Conv", [(1, 32, 112, 112), (32, 1, 3, 3)], (1, 32, 112, 112), 3_612_672),
        ("ConvTranspose", [(1, 8, 4, 4), (8, 5, 2, 2)], (1, 5, 8, 8), 8 * 16 * 5 * 4),
        ("Gemm", [(1, 2048), (1000, 2048)], (1, 1000), 2_048_000),
        ("MatMul", [(1, 197, 768), (768, 3072)], (1, 197, 3072), 197 * 768 * 3072),
        # attention: twelve heads, 197 tokens, 64 numbers each
        ("MatMul", [(1, 12, 197, 64), (1, 12, 64, 197)], (1, 12, 197, 197), 12 * 197 * 197 * 64),
        ("MatMulNBits", [(1, 768), (1000, 24, 16)], (1, 1000), 768_000),
    ],
)
def test_macs_are_those_counted_by_hand(
    operator: str, inputs: Sequence[tuple[int, ...]], output: tuple[int, ...], expected: int
) -> None:
    assert macs_of(operator, inputs, output) == expected


def test_every_operator_is_counted_by_hand_above() -> None:
    assert set(MAC_OPERATORS) == {"Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulNBits"}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(small, small, small, small, small, small)
def test_conv_counts_every_product_of_every_output(
    groups: int, channels: int, filters: int, kernel: int, height: int, width: int
) -> None:
    """One multiply-accumulate per output, input channel of its group and place of the kernel; padding counts too."""
    count = 0
    for _ in product(range(groups * filters), range(height), range(width)):  # outputs
        for _ in product(range(channels), range(kernel), range(kernel)):  # what each one sums up
            count += 1
    inputs = [(1, groups * channels, 9, 9), (groups * filters, channels, kernel, kernel)]
    assert macs_of("Conv", inputs, (1, groups * filters, height, width)) == count


@settings(max_examples=25, deadline=None, derandomize=True)
@given(small, small, small, small, small, small)
def test_conv_transpose_counts_every_place_that_every_input_reaches(
    groups: int, channels: int, filters: int, kernel: int, height: int, width: int
) -> None:
    count = 0
    for _ in product(range(groups * channels), range(height), range(width)):  # inputs
        for _ in product(range(filters), range(kernel), range(kernel)):  # what each one is added to
            count += 1
    inputs = [(1, groups * channels, height, width), (groups * channels, filters, kernel, kernel)]
    assert macs_of("ConvTranspose", inputs, (1, groups * filters, 9, 9)) == count


@settings(max_examples=25, deadline=None, derandomize=True)
@given(small, small, small, small)
def test_matmul_counts_every_product_of_every_output(heads: int, rows: int, inner: int, columns: int) -> None:
    count = sum(1 for _ in product(range(heads), range(rows), range(columns), range(inner)))
    inputs = [(1, heads, rows, inner), (1, heads, inner, columns)]
    assert macs_of("MatMul", inputs, (1, heads, rows, columns)) == count


@unhurried
@given(st.integers(1, 64))
def test_batch_does_not_count(batch: int) -> None:
    assert macs_of("Conv", [(batch, 3, 8, 8), (4, 3, 3, 3)], (batch, 4, 8, 8)) == 4 * 64 * 27
    assert macs_of("Gemm", [(batch, 5), (7, 5)], (batch, 7)) == 35


@pytest.mark.parametrize("shape", [Shape(), Shape(batch=4), Shape(nhwc=True)], ids=["free", "batch 4", "nhwc"])
def test_layers_of_the_tiny_network_are_found_with_their_work(tmp_path: Path, shape: Shape) -> None:
    layers = layers_from_onnx(write_tiny(tmp_path, shape))
    assert [(layer.name, layer.operator, layer.macs) for layer in layers] == [
        ("conv1", "Conv", 8 * 16 * 16 * 3 * 9),
        ("conv2", "Conv", 8 * 16 * 16 * 8 * 9),
        ("gemm", "Gemm", 8 * CLASSES),
    ]
    assert {(layer.activation, layer.weight, layer.output) for layer in layers} == {("float", "float", "float")}


def test_layers_of_weights_in_another_file_are_counted_without_it(tmp_path: Path) -> None:
    path = write_tiny(tmp_path)
    expected = layers_from_onnx(path)
    external = tmp_path / "external.onnx"
    model = onnx.load(str(path))
    onnx.save(model, str(external), save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    assert layers_from_onnx(external) == expected


def test_layer_without_a_name_is_called_by_its_output(tmp_path: Path) -> None:
    path = write_tiny(tmp_path)
    model = onnx.load(str(path))
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, str(path))
    assert [layer.name for layer in layers_from_onnx(path)] == ["c1", "c2", "g"]


def test_stale_shapes_of_an_exporter_do_not_count(tmp_path: Path) -> None:
    path = write_tiny(tmp_path)
    model = onnx.load(str(path))
    model.graph.value_info.append(helper.make_tensor_value_info("c1", TensorProto.FLOAT, [64, 8, 99, 99]))
    onnx.save(model, str(path))
    assert layers_from_onnx(path)[0].macs == 8 * 16 * 16 * 3 * 9


@pytest.mark.parametrize("signed", [False, True])
def test_quantised_layers_are_described_by_their_types(tmp_path: Path, signed: bool) -> None:
    layers = layers_from_onnx(quantised_artifact(tmp_path, signed=signed).path)
    kind = "int8" if signed else "uint8"
    assert {layer.name: layer.macs for layer in layers} == MACS
    assert [(layer.activation, layer.weight) for layer in layers] == [(kind, "int8")] * 3
    assert [layer.output for layer in layers] == ["quantised", "quantised", "float"]


@pytest.mark.parametrize("only", LAYERS)
def test_layers_that_are_not_quantised_are_float(tmp_path: Path, only: str) -> None:
    weights = {layer.name: layer.weight for layer in layers_from_onnx(quantised_artifact(tmp_path, [only]).path)}
    assert weights == {name: "int8" if name == only else "float" for name in LAYERS}


def test_activation_with_two_readers_is_shared(tmp_path: Path) -> None:
    shared = {
        residual: {layer.name: layer.shared_input for layer in layers_from_onnx(artifact.path)}
        for residual in (False, True)
        for artifact in [quantised_artifact(tmp_path, residual=residual)]
    }
    assert shared[False] == {"conv1": False, "conv2": False, "gemm": False}
    assert shared[True] == {"conv1": False, "conv2": True, "gemm": False}


def test_quantised_activation_without_a_zero_point_is_uint8(tmp_path: Path) -> None:
    path = quantised_artifact(tmp_path).path
    model = onnx.load(str(path))
    for node in model.graph.node:
        if node.name in ("conv1_in_quantise", "conv1_in_dequantise"):
            del node.input[2]
    onnx.save(model, str(path))
    assert layers_from_onnx(path)[0].activation == "uint8"


def test_quantised_activation_without_a_zero_point_may_name_its_type(tmp_path: Path) -> None:
    """As opset 21 lets a QuantizeLinear do."""
    model = onnx.load(quantised_artifact(tmp_path).path)
    model.opset_import[0].version = 21
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            del node.input[2]
            node.attribute.append(helper.make_attribute("output_dtype", TensorProto.INT8))
        elif node.op_type == "DequantizeLinear" and node.name.endswith("_in_dequantise"):
            del node.input[2]
    path = tmp_path / "newer.onnx"
    onnx.save(model, path)
    assert {layer.activation for layer in layers_from_onnx(path)} == {"int8"}


@pytest.mark.parametrize("between", ["Relu", "Clip", "Sigmoid"])
def test_output_says_what_stands_before_the_quantiser(tmp_path: Path, between: str) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node(between, ["c"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "scale"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1])
    model = model_of(
        nodes,
        [value("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [value("y", TensorProto.FLOAT, ["N", 4, 6, 6])],
        [tensor("w", 4, 3, 3, 3, seed=1), scale],
    )
    path = tmp_path / "between.onnx"
    onnx.save(model, str(path))
    (layer,) = layers_from_onnx(path)
    assert layer.output == (between if between != "Sigmoid" else "float")
    assert layer.macs == 4 * 36 * 27
