"""ONNX Runtime's integer kernels against the NumPy reference, bit for bit, here and on an emulated Haswell."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from engines import ort_certificate
from engines.base import EngineOptions
from engines.cpu import kernel_class, saturates
from engines.onnx_file import artifact_from_onnx
from engines.ort_certificate import KERNELS
from exporters.base import Quantisation, Source
from exporters.calibration import calibrate
from exporters.qdq import onnx_qdq
from exporters.ranges.minmax import MinMax
from exporters.targets import ort_cpu
from tests.engines.captured import capture, capture_under, optimise, with_all_outputs
from tests.engines.integer_reference import OPERATORS, evaluate, requantised
from tests.engines.quantised import quantised_artifact
from tests.engines.tiny import pictures

Array = npt.NDArray[Any]

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the kernels of x86 are written down here"
)


def matmul_model(folder: Path, operator: str) -> Path:
    """One matrix product of extreme values: uint8 [7, 130] by int8 [130, 33]."""
    draw = np.random.default_rng(0)
    weights = draw.integers(-128, 128, (130, 33)).astype(np.int8)
    constants = {"w": weights, "x_zero": np.uint8(117), "w_zero": np.int8(0)}
    names = ["x", "w", "x_zero", "w_zero"]
    if operator == "QLinearMatMul":
        scales = {"x_scale": np.float32(0.02), "w_scale": np.float32(0.01), "y_scale": np.float32(0.3)}
        constants = {**constants, **scales, "y_zero": np.uint8(120)}
        names = ["x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero"]
    graph = helper.make_graph(
        [helper.make_node(operator, names, ["y"], "product")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [7, 130])],
        [helper.make_tensor_value_info("y", TensorProto.INT32 if len(names) == 4 else TensorProto.UINT8, [7, 33])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = folder / f"{operator}.onnx"
    onnx.save(model, str(path))
    return path


def conv_model(folder: Path, *, channels: int, outputs: int, kernel: int, stride: int, group: int) -> Path:
    """One QLinearConv of extreme values, uint8 [2, channels, 9, 9]."""
    draw = np.random.default_rng(1)
    weights = draw.integers(-128, 128, (outputs, channels // group, kernel, kernel)).astype(np.int8)
    constants = {
        "x_scale": np.float32(0.02),
        "x_zero": np.uint8(117),
        "w": weights,
        "w_scale": draw.uniform(0.005, 0.02, outputs).astype(np.float32),
        "w_zero": np.zeros(outputs, np.int8),
        "y_scale": np.float32(0.08 * weights[0].size ** 0.5),
        "y_zero": np.uint8(120),
        "bias": draw.integers(-3000, 3000, outputs).astype(np.int32),
    }
    node = helper.make_node(
        "QLinearConv", ["x", *constants], ["y"], "conv", pads=[kernel // 2] * 4, strides=[stride] * 2, group=group
    )
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [2, channels, 9, 9])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    path = folder / "conv.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


CONVOLUTIONS = {
    "1x1": {"channels": 32, "outputs": 16, "kernel": 1, "stride": 1, "group": 1},
    "3x3": {"channels": 32, "outputs": 16, "kernel": 3, "stride": 1, "group": 1},
    "stride": {"channels": 3, "outputs": 16, "kernel": 7, "stride": 2, "group": 1},
    "odd": {"channels": 5, "outputs": 7, "kernel": 3, "stride": 1, "group": 1},
    "grouped": {"channels": 32, "outputs": 32, "kernel": 3, "stride": 1, "group": 2},
    "depthwise": {"channels": 32, "outputs": 32, "kernel": 3, "stride": 1, "group": 32},
}


def large(*shape: int) -> dict[str, Array]:
    return {"x": np.random.default_rng(2).integers(150, 256, shape).astype(np.uint8)}


def differences(path: Path, tensors: Mapping[str, Array], *, saturating: bool) -> Iterator[tuple[str, int]]:
    """Integer layers with the number of values in which reference and kernel differ, on the same inputs."""
    graph = onnx.load(str(path)).graph
    known = {**{tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}, **tensors}
    for node in graph.node:
        if node.op_type in OPERATORS:
            inputs = [known[name] if name else None for name in node.input]
            expected = evaluate(node, inputs, saturating=saturating)
            got = tensors[node.output[0]]
            assert got.dtype == expected.dtype
            assert got.shape == expected.shape
            yield node.name, int((got != expected).sum())


def assert_bit_for_bit(path: Path, tensors: Mapping[str, Array], *, saturating: bool, layers: int) -> None:
    found = dict(differences(path, tensors, saturating=saturating))
    assert len(found) == layers
    assert set(found.values()) == {0}, found


HERE = saturates(kernel_class())


@pytest.fixture
def haswell(qemu: None) -> list[str]:
    """What starts a program on an emulated Haswell."""
    emulated = importlib.import_module("engines.emulated")
    return [emulated.EMULATOR, "-cpu", emulated.CPUS["haswell"].model]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_equals_the_reference(tmp_path: Path, name: str) -> None:
    path = optimise(conv_model(tmp_path, **CONVOLUTIONS[name]), tmp_path / "optimised.onnx")
    feeds = large(2, CONVOLUTIONS[name]["channels"], 9, 9)
    assert_bit_for_bit(path, capture(path, feeds), saturating=HERE, layers=1)


@pytest.mark.parametrize("operator", ["MatMulInteger", "QLinearMatMul"])
def test_matrix_product_equals_the_reference(tmp_path: Path, operator: str) -> None:
    path = optimise(matmul_model(tmp_path, operator), tmp_path / "optimised.onnx")
    assert_bit_for_bit(path, capture(path, large(7, 130)), saturating=HERE, layers=1)


@pytest.mark.parametrize("residual", [False, True])
def test_layers_of_a_quantised_network_equal_the_reference(tmp_path: Path, residual: bool) -> None:
    path = optimise(quantised_artifact(tmp_path, residual=residual).path, tmp_path / "optimised.onnx")
    assert_bit_for_bit(path, capture(path, {"x": pictures(3)}), saturating=HERE, layers=3)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_on_a_haswell_saturates_in_pairs(haswell: list[str], tmp_path: Path, name: str) -> None:
    path = optimise(conv_model(tmp_path, **CONVOLUTIONS[name]), tmp_path / "optimised.onnx")
    tensors = capture_under(haswell, path, large(2, CONVOLUTIONS[name]["channels"], 9, 9))
    assert_bit_for_bit(path, tensors, saturating=True, layers=1)
    ((_, exact),) = differences(path, tensors, saturating=False)
    assert bool(exact) == (name != "depthwise")


@pytest.mark.parametrize("operator", ["MatMulInteger", "QLinearMatMul"])
def test_matrix_product_on_a_haswell_saturates_in_pairs(haswell: list[str], tmp_path: Path, operator: str) -> None:
    path = optimise(matmul_model(tmp_path, operator), tmp_path / "optimised.onnx")
    tensors = capture_under(haswell, path, large(7, 130))
    assert_bit_for_bit(path, tensors, saturating=True, layers=1)
    ((_, exact),) = differences(path, tensors, saturating=False)
    assert exact


@pytest.fixture
def squeezenet(real_data: Path, tmp_path: Path) -> tuple[Path, dict[str, Array]]:
    """The optimised graph of a real network with 8-bit weights, and one real picture."""
    given = artifact_from_onnx(real_data / "models" / "squeezenet1.1.onnx")
    files = sorted((real_data / "imagenet" / "val227").rglob("*.*"))[:9]
    levels = [np.asarray(Image.open(file).convert("RGB"))[:224, :224] for file in files]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    batches = [((each / 255 - mean) / std).astype(np.float32).transpose(2, 0, 1)[None] for each in levels]
    calibration = calibrate(given, batches[1:], Source("minmax", {}, "", {}), MinMax)
    made = onnx_qdq(given, calibration, Quantisation("ort-cpu", weight_bits=8), ort_cpu(), tmp_path / "int8.onnx")
    return optimise(made.path, tmp_path / "optimised.onnx"), {given.input.name: np.ascontiguousarray(batches[0])}


def test_every_layer_of_a_real_network_equals_the_reference(squeezenet: tuple[Path, dict[str, Array]]) -> None:
    path, feeds = squeezenet
    assert_bit_for_bit(path, capture(path, feeds), saturating=HERE, layers=26)


def test_every_layer_of_a_real_network_on_a_haswell_saturates_in_pairs(
    haswell: list[str], squeezenet: tuple[Path, dict[str, Array]]
) -> None:
    path, feeds = squeezenet
    tensors = capture_under(haswell, path, feeds)
    assert_bit_for_bit(path, tensors, saturating=True, layers=26)
    exact = dict(differences(path, tensors, saturating=False))
    assert any(exact.values())


def test_requantisation_rounds_half_to_even_and_saturates() -> None:
    total = np.array([-1000, -3, -1, 0, 1, 3, 5, 1000], np.int32)
    assert requantised(total, np.float32(0.5), np.int8(0)).tolist() == [-128, -2, 0, 0, 0, 2, 2, 127]
    assert requantised(total, np.float32(0.5), np.uint8(128)).tolist() == [0, 126, 128, 128, 128, 130, 130, 255]


@pytest.mark.parametrize("quantised", [["conv1", "conv2", "gemm"], ["conv2"], []])
def test_profile_agrees_with_the_optimised_graph_in_kernels_and_types(tmp_path: Path, quantised: list[str]) -> None:
    artifact = quantised_artifact(tmp_path, quantised)
    feeds = {"x": pictures(1)}
    optimised, events = ort_certificate._profile(artifact, EngineOptions(), feeds, tmp_path)
    tensors = capture(with_all_outputs(optimised, tmp_path / "captured.onnx"), feeds)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in optimised.graph.initializer}
    nodes = {node.name: node for node in optimised.graph.node}
    ran = {event["name"].removesuffix("_kernel_time"): event["args"] for event in events}
    assert set(nodes) <= set(ran)
    for name, node in nodes.items():
        assert ran[name]["op_name"] == node.op_type
        # Weights that were packed in advance are missing from the profile's list; activations never are.
        fed = [next(iter(entry.items())) for entry in ran[name]["input_type_shape"]]
        wanted = [type_and_shape(tensors[each]) for each in node.input if each in tensors]
        assert fed[: len(wanted[:1])] == wanted[:1]
    layers = ort_certificate.certify_cpu(artifact, EngineOptions(), feeds).layers
    for layer, kernel in zip(layers, [node for node in nodes.values() if node.op_type in KERNELS], strict=True):
        _, activation, weight = KERNELS[kernel.op_type]
        types = [type_and_shape({**constants, **tensors}[kernel.input[place]])[0] for place in (activation, weight)]
        assert (layer.kernel, list(layer.input_types)) == (kernel.op_type, types)


def type_and_shape(array: Array) -> tuple[str, list[int]]:
    """As a profile writes it."""
    return {"float32": "float"}.get(array.dtype.name, array.dtype.name), list(array.shape)
