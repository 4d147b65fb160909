"""Calibration and Q/DQ: the ranges are right, the file is sound, and its answers stay near the float ones."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import QuantType

from engines.artifact import Artifact, read_sidecar, sha256_of
from engines.base import EngineOptions, call
from engines.cpu import kernel_class, saturates
from engines.onnx_file import artifact_from_onnx
from engines.ort import open_cpu
from engines.ort_certificate import certify_cpu
from exporters import TARGETS
from exporters.base import Calibration, ExportError, Quantisation, Source
from exporters.calibration import calibrate
from exporters.qdq import onnx_qdq
from exporters.ranges.minmax import MinMax
from exporters.targets import ort_cpu
from harness.errors import HarnessError
from harness.exporting import quantisation_target
from tests.engines.tiny import CLASSES, Shape, pictures, tiny_artifact, with_external_weights

Array = npt.NDArray[np.float32]

CALIBRATION_PICTURES = pictures(12, seed=3)
PICTURES = pictures(20, seed=4)
SOURCE = Source("minmax", {"a.png": "its content"}, "the preprocessing", {"clean": "the steps"})


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """A float model with batch norms, and everything that a sidecar may declare."""
    return replace(
        tiny_artifact(tmp_path, Shape(batch_norm=True)),
        preprocessing=({"stage": "decode", "name": "pillow", "params": {}},),
        classes=tuple(f"class {index}" for index in range(CLASSES)),
    )


@pytest.fixture
def calibration(artifact: Artifact) -> Calibration:
    return calibrate(artifact, one_by_one(CALIBRATION_PICTURES), SOURCE, MinMax)


@pytest.fixture
def quantised(artifact: Artifact, calibration: Calibration) -> Artifact:
    return written(artifact, calibration, "ort-cpu")


def one_by_one(batch: Array) -> list[Array]:
    return [batch[index : index + 1] for index in range(len(batch))]


def written(artifact: Artifact, calibration: Calibration, target: str, wish: Quantisation | None = None) -> Artifact:
    path = artifact.path.with_name(f"tiny.int8.{target}.onnx")
    return onnx_qdq(artifact, calibration, wish or Quantisation(target), quantisation_target(target), path)


def measured_and_written(artifact: Artifact, path: Path) -> Artifact:
    calibration = calibrate(artifact, one_by_one(CALIBRATION_PICTURES), SOURCE, MinMax)
    return onnx_qdq(artifact, calibration, Quantisation("ort-cpu"), ort_cpu(), path)


def scores(artifact: Artifact, options: EngineOptions = EngineOptions()) -> Array:  # noqa: B008
    engine = open_cpu(artifact, options)
    return np.asarray(call(engine, {"x": PICTURES}).outputs["y"])


def test_quantiser_gives_the_logger_back(artifact: Artifact, tmp_path: Path) -> None:
    before = logging.getLogger().level
    measured_and_written(artifact, tmp_path / "made.onnx")
    assert logging.getLogger().level == before


@pytest.mark.parametrize("tail", ["Softmax", "Exp"], ids=["quantised operator", "float operator"])
def test_output_stays_float_whatever_the_last_operator_is(tmp_path: Path, tail: str) -> None:
    parent = tiny_artifact(tmp_path, Shape(tail=(tail,)))
    made = measured_and_written(parent, tmp_path / "made.onnx")
    graph = onnx.load(str(made.path)).graph
    (maker,) = [node for node in graph.node if graph.output[0].name in node.output]
    assert maker.op_type == tail
    assert made.output_kind == parent.output_kind


def test_quantised_file_is_valid_and_sorted(quantised: Artifact) -> None:
    model = onnx.load(str(quantised.path))
    onnx.checker.check_model(model, full_check=True)
    known = {value.name for value in (*model.graph.input, *model.graph.initializer)}
    for node in model.graph.node:
        assert {name for name in node.input if name} <= known, f"{node.name} comes before what it reads"
        known |= set(node.output)


def test_output_stays_float(quantised: Artifact) -> None:
    graph = onnx.load(str(quantised.path)).graph
    (maker,) = [node for node in graph.node if graph.output[0].name in node.output]
    assert maker.op_type not in ("DequantizeLinear", "QuantizeLinear")
    assert "QuantizeLinear" in {node.op_type for node in graph.node}
    assert len(np.unique(scores(quantised))) > 0.9 * len(PICTURES) * CLASSES


@pytest.mark.parametrize(("operator", "channels"), [("Conv", [8, 8]), ("Gemm", [CLASSES])])
def test_weights_have_one_scale_per_output_channel(quantised: Artifact, operator: str, channels: list[int]) -> None:
    graph = onnx.load(str(quantised.path)).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    found = []
    for node in graph.node:
        if node.op_type == operator:
            weight, scale, zero = (constants[name] for name in makers[node.input[1]].input)
            assert weight.dtype == np.int8
            assert not zero.any()
            found.append(list(scale.shape))
    assert found == [[count] for count in channels]


def test_activations_are_unsigned_with_one_scale(quantised: Artifact) -> None:
    graph = onnx.load(str(quantised.path)).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert pairs
    for node in pairs:
        assert constants[node.input[1]].shape == ()
        assert constants[node.input[2]].dtype == np.uint8


def test_sidecar_says_where_the_file_comes_from(artifact: Artifact, quantised: Artifact) -> None:
    sidecar = read_sidecar(quantised.path)
    made_by = sidecar["made_by"]
    assert sidecar["sha256"] == sha256_of(quantised.path) == quantised.sha256
    assert made_by["parent_sha256"] == artifact.sha256
    assert made_by["quantisation"]["target"] == "ort-cpu"
    assert made_by["calibration"]["inputs"] == len(CALIBRATION_PICTURES)
    assert made_by["calibration"]["picture_list"] == SOURCE.picture_list
    assert "ranges" not in made_by["calibration"]


def test_quantised_file_inherits_what_the_parent_declared(artifact: Artifact, quantised: Artifact) -> None:
    opened = artifact_from_onnx(quantised.path)
    assert opened == quantised
    assert opened.quantised
    assert opened.preprocessing == artifact.preprocessing
    assert opened.classes == artifact.classes
    assert (opened.input, opened.output) == (artifact.input, artifact.output)


def test_calibration_of_another_model_is_refused(artifact: Artifact, calibration: Calibration, tmp_path: Path) -> None:
    other = replace(calibration, model_sha256="0" * 64)
    with pytest.raises(ExportError, match=r"another model than .*tiny\.onnx .*calibrate again"):
        onnx_qdq(artifact, other, Quantisation("ort-cpu"), ort_cpu(), tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx").exists()


def test_unknown_target_is_refused_with_the_nearest() -> None:
    with pytest.raises(HarnessError, match="no quantisation target 'ort-cpuu'; did you mean 'ort-cpu'"):
        quantisation_target("ort-cpuu")


def test_same_file_is_written_twice(artifact: Artifact, calibration: Calibration, quantised: Artifact) -> None:
    first = quantised.path.read_bytes()
    assert written(artifact, calibration, "ort-cpu").path.read_bytes() == first


def test_stale_sidecar_of_an_earlier_file_is_replaced(
    artifact: Artifact, calibration: Calibration, quantised: Artifact
) -> None:
    quantised.path.with_name(f"{quantised.path.name}.json").write_text('{"sha256": "of other bytes"}')
    again = written(artifact, calibration, "ort-cpu")
    assert artifact_from_onnx(again.path) == again


def test_weights_lose_a_bit_where_products_saturate(
    artifact: Artifact, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    highest = {}
    for kernel in ("AVX2", "AVX512-VNNI"):
        monkeypatch.setattr("exporters.targets.kernel_class", lambda kernel=kernel: kernel)
        made = written(artifact, calibration, "ort-cpu")
        weights = [value for value in constants_of(made).values() if value.dtype == np.int8]
        highest[kernel] = max(int(np.abs(weight.astype(int)).max()) for weight in weights)
        assert made.made_by["weight_bits"] == (7 if kernel == "AVX2" else 8)
    assert highest["AVX2"] <= 64 < highest["AVX512-VNNI"] <= 127


@pytest.mark.parametrize(("bits", "highest"), [(7, 64), (8, 127)])
def test_the_bits_of_weights_can_be_chosen(
    artifact: Artifact, calibration: Calibration, bits: int, highest: int
) -> None:
    made = written(artifact, calibration, "ort-cpu", Quantisation("ort-cpu", weight_bits=bits))
    weights = [value for value in constants_of(made).values() if value.dtype == np.int8]
    assert max(int(np.abs(weight.astype(int)).max()) for weight in weights) == highest
    with pytest.raises(ExportError, match="expected 7 or 8, or 0 to have it chosen; got 6"):
        Quantisation("ort-cpu", weight_bits=6)


def test_target_takes_this_processor_into_account() -> None:
    target = ort_cpu()
    assert (target.activation, target.weight) == (QuantType.QUInt8, QuantType.QInt8)
    assert target.reduce_range == saturates(kernel_class())


def constants_of(artifact: Artifact) -> dict[str, npt.NDArray[np.generic]]:
    graph = onnx.load(str(artifact.path)).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_gives_a_sound_file_near_the_float_model(
    artifact: Artifact, calibration: Calibration, target: str
) -> None:
    made = written(artifact, calibration, target)
    onnx.checker.check_model(onnx.load(str(made.path)), full_check=True)
    wanted, got = scores(artifact), scores(made, EngineOptions(integer_kernels=False))
    assert 0 < np.abs(got - wanted).mean() < 0.02 * float(wanted.max() - wanted.min())


@pytest.mark.parametrize("target", TARGETS)
def test_weights_per_tensor_have_one_scale(artifact: Artifact, calibration: Calibration, target: str) -> None:
    made = written(artifact, calibration, target, Quantisation(target, weights="per-tensor"))
    constants = constants_of(made)
    scales = [node.input[1] for node in onnx.load(str(made.path)).graph.node if node.op_type == "DequantizeLinear"]
    assert scales
    assert all(constants[name].size == 1 for name in scales)


def test_tensorrt_gets_zero_points_of_zero_and_biases_in_float(artifact: Artifact, calibration: Calibration) -> None:
    made = written(artifact, calibration, "tensorrt")
    constants = constants_of(made)
    graph = onnx.load(str(made.path)).graph
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        assert not constants[node.input[2]].any(), f"{node.name} has a zero point"
        assert constants[node.input[2]].dtype == np.int8
    assert not [value for value in constants.values() if value.dtype == np.int32], "a bias became integers"
    weights = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in constants]
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(weights) == len(layers), "TensorRT wants Q and DQ on float weights"


def test_tensorrt_gets_one_integer_and_one_float_input_of_every_sum(tmp_path: Path) -> None:
    parent = tiny_artifact(tmp_path)
    calibration = calibrate(parent, one_by_one(CALIBRATION_PICTURES), SOURCE, MinMax)
    graph = onnx.load(str(written(parent, calibration, "tensorrt").path)).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    sums = [node for node in graph.node if node.op_type == "Add"]
    assert sums
    for node in sums:
        assert Counter(makers[name] for name in node.input) == {"DequantizeLinear": 1, "Conv": 1}


def test_tensorrt_takes_no_asymmetric_activations(artifact: Artifact, calibration: Calibration) -> None:
    with pytest.raises(ExportError, match="symmetric activations only"):
        written(artifact, calibration, "tensorrt", Quantisation("tensorrt", activations="asymmetric"))


def test_symmetric_activations_have_their_zero_in_the_middle(artifact: Artifact, calibration: Calibration) -> None:
    made = written(artifact, calibration, "ort-cpu", Quantisation("ort-cpu", activations="symmetric"))
    constants = constants_of(made)
    graph = onnx.load(str(made.path)).graph
    zeros = {int(constants[node.input[2]]) for node in graph.node if node.op_type == "QuantizeLinear"}
    assert zeros == {128}


@pytest.mark.parametrize(("weights", "activations"), [("per-chanel", ""), ("per-channel", "symetric")])
def test_a_wish_that_no_target_has_is_refused(weights: str, activations: str) -> None:
    with pytest.raises(ExportError, match="expected one of"):
        Quantisation("ort-cpu", weights, activations)


def test_nodes_can_be_kept_in_float(artifact: Artifact, calibration: Calibration) -> None:
    whole = written(artifact, calibration, "ort-cpu")
    layers = [node.name for node in onnx.load(str(whole.path)).graph.node if node.op_type in ("Conv", "Gemm")]
    made = written(artifact, calibration, "ort-cpu", Quantisation("ort-cpu", keep_float=(f"{layers[0][:-1]}?",)))
    assert layers[0] in made.made_by["kept_float"]
    makers = {name: node for node in onnx.load(str(made.path)).graph.node for name in node.output}
    graph = onnx.load(str(made.path)).graph
    kept = {node.name: node.input[1] not in makers for node in graph.node if node.op_type in ("Conv", "Gemm")}
    assert kept[layers[0]]
    assert not all(kept.values())


def test_a_pattern_that_matches_nothing_is_refused(artifact: Artifact, calibration: Calibration) -> None:
    with pytest.raises(ExportError, match="no node is called 'fc9\\*'; the layers are "):
        written(artifact, calibration, "ort-cpu", Quantisation("ort-cpu", keep_float=("fc9*",)))


def test_quantised_logits_are_near_the_float_ones(artifact: Artifact, quantised: Artifact) -> None:
    """Within a tenth of the spread of the logits, and 2 % of it on average: 8 bits lose that much, not more."""
    wanted, got = scores(artifact), scores(quantised)
    spread = float(wanted.max() - wanted.min())
    assert np.abs(got - wanted).max() < 0.1 * spread
    assert np.abs(got - wanted).mean() < 0.02 * spread
    assert not np.array_equal(got, wanted)


def test_simulated_and_integer_are_nearer_to_each_other_than_to_float(artifact: Artifact, quantised: Artifact) -> None:
    simulated = scores(quantised, EngineOptions(integer_kernels=False))
    integer, exact = scores(quantised), scores(artifact)
    spread = float(exact.max() - exact.min())
    assert np.abs(simulated - integer).max() < 0.05 * spread
    assert np.abs(simulated - integer).mean() < np.abs(simulated - exact).mean()


def test_weights_beside_the_model_are_quantised_into_one_file(tmp_path: Path) -> None:
    external = tmp_path / "external"
    external.mkdir()
    artifact = artifact_from_onnx(with_external_weights(external, "weights.bin"))
    quantised = measured_and_written(artifact, tmp_path / "q.onnx")
    alone = tmp_path / "alone"
    alone.mkdir()
    moved = quantised.path.rename(alone / "q.onnx")
    assert artifact_from_onnx(moved).quantised
    assert open_cpu(artifact_from_onnx(moved), EngineOptions()).run({"x": pictures(1)})["y"].shape == (1, CLASSES)


def test_layers_kept_in_float_run_in_float(tmp_path: Path) -> None:
    """ONNX Runtime from 1.21 on quantises the weights between Q/DQ pairs by itself, unless the session forbids it."""
    parent = tiny_artifact(tmp_path)
    calibration = calibrate(parent, one_by_one(CALIBRATION_PICTURES), SOURCE, MinMax)
    made = written(parent, calibration, "ort-cpu", Quantisation("ort-cpu", keep_float=("conv1",)))
    (proof,) = [
        layer for layer in certify_cpu(made, EngineOptions(), {"x": PICTURES}).layers if layer.layer.startswith("conv1")
    ]
    assert not proof.integer
    assert open_cpu(artifact_from_onnx(made.path), EngineOptions()).facts()["session_config"] == made.session_config
    simulated, integer = scores(made, EngineOptions(integer_kernels=False)), scores(made)
    assert np.abs(simulated - integer).max() < 0.05 * float(simulated.max() - simulated.min())
