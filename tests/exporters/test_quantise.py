"""Calibration and Q/DQ: the ranges are right, the file is sound, and its answers stay near the float ones."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization import QuantType

from engines import ENGINES
from engines.artifact import Artifact, read_sidecar, sha256_of
from engines.base import EngineOptions, call
from engines.cpu import kernel_class, saturates
from engines.onnx_file import artifact_from_onnx
from engines.ort import open_cpu
from exporters import INT8
from exporters.base import Calibration, ExportError, write_calibration
from exporters.calibration import calibrate_minmax, fold_constants
from exporters.qdq import int8_for_ort_cpu, onnx_qdq, target_named
from harness.registry import int8_exporter
from tests.engines.tiny import CLASSES, Shape, pictures, tiny_artifact, with_external_weights

Array = npt.NDArray[np.float32]

IDENTITY = {"picture_list": "the pictures", "preprocessing": "the preprocessing"}
CALIBRATION_PICTURES = pictures(12, seed=3)
PICTURES = pictures(20, seed=4)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """A float model with batch norms, and everything that a sidecar may declare."""
    return replace(
        tiny_artifact(tmp_path, Shape(batch_norm=True)),
        preprocessing=({"stage": "decode", "name": "pillow", "params": {}},),
        classes=tuple(f"class {index}" for index in range(CLASSES)),
    )


@pytest.fixture
def folded(artifact: Artifact) -> Path:
    path = artifact.path.with_name("folded.onnx")
    fold_constants(artifact, path)
    return path


@pytest.fixture
def calibration(folded: Path) -> Calibration:
    return calibrate_minmax(folded, "x", one_by_one(CALIBRATION_PICTURES), IDENTITY)


@pytest.fixture
def quantised(artifact: Artifact, folded: Path, calibration: Calibration) -> Artifact:
    return onnx_qdq(artifact, folded, calibration, "ort-cpu", artifact.path.with_name("tiny.int8.onnx"))


def one_by_one(batch: Array) -> list[Array]:
    return [batch[index : index + 1] for index in range(len(batch))]


def scores(artifact: Artifact, options: EngineOptions = EngineOptions()) -> Array:  # noqa: B008
    engine = open_cpu(artifact, options)
    return np.asarray(call(engine, {"x": PICTURES}).outputs["y"])


def values_by_reference(path: Path, names: list[str]) -> dict[str, Array]:
    """Every named activation over the calibration pictures, by ONNX's own evaluator."""
    model = onnx.load(str(path))
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    results = ReferenceEvaluator(model).run(names, {"x": CALIBRATION_PICTURES})
    return {name: np.asarray(value) for name, value in zip(names, results, strict=True)}


def test_batch_norms_are_folded_and_the_answers_stay(artifact: Artifact, folded: Path) -> None:
    operators = {node.op_type for node in onnx.load(str(folded)).graph.node}
    assert "BatchNormalization" in {node.op_type for node in onnx.load(str(artifact.path)).graph.node}
    assert "BatchNormalization" not in operators
    assert {"Conv", "Relu", "Gemm"} <= operators
    assert np.allclose(scores(artifact), scores(artifact_from_onnx(folded)), atol=1e-4)


def test_ranges_are_the_lowest_and_highest_values_of_an_independent_run(folded: Path, calibration: Calibration) -> None:
    made = [name for node in onnx.load(str(folded)).graph.node for name in node.output]
    names = [name for name in made if name in calibration.ranges and name != "y"]
    assert len(names) >= 6
    for name, values in values_by_reference(folded, names).items():
        low, high = calibration.ranges[name]
        assert low == pytest.approx(float(values.min()), abs=1e-4)
        assert high == pytest.approx(float(values.max()), abs=1e-4)


def test_range_of_the_input_is_that_of_the_pictures(calibration: Calibration) -> None:
    assert calibration.ranges["x"] == (CALIBRATION_PICTURES.min(), CALIBRATION_PICTURES.max())


def test_range_of_a_relu_is_not_negative(calibration: Calibration) -> None:
    assert calibration.ranges["r1"][0] >= 0.0
    assert calibration.ranges["c1" if "c1" in calibration.ranges else "n1"][0] < 0.0


def test_calibration_knows_what_it_was_measured_on(folded: Path, calibration: Calibration) -> None:
    assert calibration.pictures == len(CALIBRATION_PICTURES)
    assert calibration.model_sha256 == sha256_of(folded)
    assert (calibration.picture_list, calibration.preprocessing) == tuple(IDENTITY.values())
    assert calibration.method == "minmax"


def test_order_of_the_pictures_does_not_change_the_ranges(folded: Path, calibration: Calibration) -> None:
    backwards = calibrate_minmax(folded, "x", one_by_one(CALIBRATION_PICTURES)[::-1], IDENTITY)
    assert backwards == calibration


def test_calibration_survives_json(calibration: Calibration, tmp_path: Path) -> None:
    write_calibration(calibration, tmp_path / "calibration.json")
    stored = json.loads((tmp_path / "calibration.json").read_text())
    assert stored == calibration.describe()
    assert {name: tuple(pair) for name, pair in stored["ranges"].items()} == dict(calibration.ranges)


def test_calibration_without_pictures_is_refused(folded: Path) -> None:
    with pytest.raises(ExportError, match="needs at least one picture; got none"):
        calibrate_minmax(folded, "x", [], IDENTITY)


def test_calibration_takes_pictures_one_at_a_time(folded: Path) -> None:
    taken: list[int] = []

    def lazily() -> object:
        for index, picture in enumerate(one_by_one(CALIBRATION_PICTURES)):
            taken.append(index)
            yield picture

    calibrate_minmax(folded, "x", lazily(), IDENTITY)  # type: ignore[arg-type]
    assert taken == list(range(len(CALIBRATION_PICTURES)))


def test_quantiser_gives_the_logger_back(artifact: Artifact, tmp_path: Path) -> None:
    before = logging.getLogger().level
    int8_for_ort_cpu(artifact, one_by_one(CALIBRATION_PICTURES), IDENTITY, tmp_path / "made.onnx")
    assert logging.getLogger().level == before


@pytest.mark.parametrize("tail", ["Softmax", "Exp"], ids=["quantised operator", "float operator"])
def test_output_stays_float_whatever_the_last_operator_is(tmp_path: Path, tail: str) -> None:
    parent = tiny_artifact(tmp_path, Shape(tail=(tail,)))
    made = int8_for_ort_cpu(parent, one_by_one(CALIBRATION_PICTURES), IDENTITY, tmp_path / "made.onnx")
    graph = onnx.load(str(made.path)).graph
    (maker,) = [node for node in graph.node if graph.output[0].name in node.output]
    assert maker.op_type == tail
    assert made.output_kind == parent.output_kind


def test_one_call_calibrates_and_writes_file_sidecar_and_calibration(
    artifact: Artifact, quantised: Artifact, calibration: Calibration, tmp_path: Path
) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    made = int8_for_ort_cpu(artifact, one_by_one(CALIBRATION_PICTURES), IDENTITY, folder / "made.onnx")
    assert made.path.read_bytes() == quantised.path.read_bytes()
    assert json.loads((folder / "tiny.calibration.json").read_text()) == calibration.describe()
    assert sorted(path.name for path in folder.iterdir()) == ["made.onnx", "made.onnx.json", "tiny.calibration.json"]


@pytest.mark.parametrize("engine", INT8)
def test_every_int8_exporter_belongs_to_an_engine_and_can_be_imported(engine: str) -> None:
    assert engine in ENGINES
    assert INT8[engine].about
    assert callable(int8_exporter(engine))


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
    assert made_by["target"] == "ort-cpu"
    assert made_by["calibration"]["pictures"] == len(CALIBRATION_PICTURES)
    assert made_by["calibration"]["picture_list"] == IDENTITY["picture_list"]
    assert "ranges" not in made_by["calibration"]


def test_quantised_file_inherits_what_the_parent_declared(artifact: Artifact, quantised: Artifact) -> None:
    opened = artifact_from_onnx(quantised.path)
    assert opened == quantised
    assert opened.quantised
    assert opened.preprocessing == artifact.preprocessing
    assert opened.classes == artifact.classes
    assert (opened.input, opened.output) == (artifact.input, artifact.output)


def test_calibration_of_another_model_is_refused(artifact: Artifact, folded: Path, calibration: Calibration) -> None:
    other = replace(calibration, model_sha256="0" * 64)
    path = folded.with_name("other.onnx")
    with pytest.raises(ExportError, match=r"another model than .*tiny\.onnx; calibrate again"):
        onnx_qdq(artifact, folded, other, "ort-cpu", path)
    assert not path.exists()


def test_unknown_target_is_refused_with_the_choices(artifact: Artifact, folded: Path, calibration: Calibration) -> None:
    with pytest.raises(ExportError, match="no quantisation target 'ort-gpu'; choose from ort-cpu"):
        onnx_qdq(artifact, folded, calibration, "ort-gpu", folded.with_name("other.onnx"))


def test_same_file_is_written_twice(
    artifact: Artifact, folded: Path, calibration: Calibration, quantised: Artifact
) -> None:
    again = onnx_qdq(artifact, folded, calibration, "ort-cpu", folded.with_name("again.onnx"))
    assert again.path.read_bytes() == quantised.path.read_bytes()


def test_stale_sidecar_of_an_earlier_file_is_replaced(
    artifact: Artifact, folded: Path, calibration: Calibration, quantised: Artifact
) -> None:
    quantised.path.with_name("tiny.int8.onnx.json").write_text('{"sha256": "of other bytes"}')
    again = onnx_qdq(artifact, folded, calibration, "ort-cpu", quantised.path)
    assert artifact_from_onnx(again.path) == again


def test_weights_lose_a_bit_where_products_saturate(
    artifact: Artifact, folded: Path, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    highest = {}
    for kernel in ("AVX2", "AVX512-VNNI"):
        monkeypatch.setattr("exporters.qdq.kernel_class", lambda kernel=kernel: kernel)
        made = onnx_qdq(artifact, folded, calibration, "ort-cpu", folded.with_name("reduced.onnx"))
        constants = onnx.load(str(made.path)).graph.initializer
        weights = [numpy_helper.to_array(t) for t in constants if t.data_type == onnx.TensorProto.INT8]
        highest[kernel] = max(int(np.abs(weight.astype(int)).max()) for weight in weights)
        assert made.made_by["reduce_range"] == (kernel == "AVX2")
    assert highest["AVX2"] <= 64 < highest["AVX512-VNNI"] <= 127


def test_target_takes_this_processor_into_account() -> None:
    target = target_named("ort-cpu")
    assert (target.activation, target.weight) == (QuantType.QUInt8, QuantType.QInt8)
    assert target.reduce_range == saturates(kernel_class())


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
    quantised = int8_for_ort_cpu(artifact, pictures(4)[:, None], IDENTITY, tmp_path / "q.onnx")
    alone = tmp_path / "alone"
    alone.mkdir()
    moved = quantised.path.rename(alone / "q.onnx")
    assert artifact_from_onnx(moved).quantised
    assert open_cpu(artifact_from_onnx(moved), EngineOptions()).run({"x": pictures(1)})["y"].shape == (1, CLASSES)
