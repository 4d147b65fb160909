"""Files with integers inside their operators, as ONNX Runtime's quantiser writes them: they run in one version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from engines.artifact import Artifact
from engines.base import EngineOptions
from engines.macs import layers_from_onnx
from engines.onnx_file import artifact_from_onnx
from engines.ort import open_cpu
from engines.ort_certificate import certify_cpu
from engines.saturation import saturating_layers
from harness.cli import main
from harness.demo.embedded import demo_recipe
from harness.errors import HarnessError
from harness.plan import plan
from harness.recipe import Recipe
from tests.engines.conformance import Array, answer, engine_of
from tests.engines.test_ort_certificate import on_x86
from tests.engines.tiny import Shape, pictures, reference, write_tiny

BATCH = pictures(16, seed=100)
TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
MACS = [55296, 147456, 80]


class Pictures(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    def __init__(self) -> None:
        self._feeds: Iterator[dict[str, Array]] = iter([{"x": pictures(1, seed)} for seed in range(16)])

    def get_next(self) -> Any:
        return next(self._feeds, None)


def with_integer_operators(folder: Path, activation: str, weight: str, per_channel: bool = False) -> Artifact:
    """The tiny network as QLinearConv, QLinearAdd, QLinearGlobalAveragePool and QGemm."""
    path = folder / "integers.onnx"
    quantize_static(
        str(write_tiny(folder, name="float.onnx")),
        str(path),
        Pictures(),
        quant_format=QuantFormat.QOperator,
        activation_type=TYPES[activation],
        weight_type=TYPES[weight],
        per_channel=per_channel,
    )
    return artifact_from_onnx(path)


def dynamic(folder: Path) -> Artifact:
    """The tiny network as DynamicQuantizeLinear, ConvInteger and MatMulInteger."""
    path = folder / "dynamic.onnx"
    quantize_dynamic(str(write_tiny(folder, name="float.onnx")), str(path), weight_type=QuantType.QUInt8)
    return artifact_from_onnx(path)


def unoptimised(artifact: Artifact) -> Array:
    """The scores of the graph as it is in the file."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(artifact.path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": BATCH})[0], np.float32)


CASES = [("uint8", "int8", True), ("uint8", "uint8", False), ("int8", "int8", False)]


@pytest.mark.parametrize(("activation", "weight", "per_channel"), CASES)
def test_integer_operators_are_accepted_and_answer_as_the_float_network(
    tmp_path: Path, activation: str, weight: str, per_channel: bool
) -> None:
    artifact = with_integer_operators(tmp_path, activation, weight, per_channel)
    assert (artifact.quantised, artifact.as_it_is) == (True, True)
    with engine_of(lambda: open_cpu(artifact, EngineOptions())) as engine:
        got = answer(engine, BATCH)
    assert np.abs(got - reference(tmp_path / "float.onnx", {"x": BATCH})).max() <= 0.1
    assert np.allclose(got, unoptimised(artifact), rtol=0, atol=1e-5)


@on_x86
@pytest.mark.parametrize(("activation", "weight", "per_channel"), CASES)
def test_integer_operators_are_certified_whole(tmp_path: Path, activation: str, weight: str, per_channel: bool) -> None:
    artifact = with_integer_operators(tmp_path, activation, weight, per_channel)
    found = certify_cpu(artifact, EngineOptions(), {"x": BATCH[:1]})
    assert [proof.macs for proof in found.layers] == MACS
    assert found.integer_fraction == 1.0
    assert {proof.input_types for proof in found.layers} == {(activation, weight)}


@on_x86
def test_dynamic_quantisation_is_accepted_and_certified(tmp_path: Path) -> None:
    artifact = dynamic(tmp_path)
    assert (artifact.quantised, artifact.as_it_is) == (True, True)
    found = certify_cpu(artifact, EngineOptions(), {"x": BATCH[:1]})
    assert [proof.macs for proof in found.layers] == MACS
    assert {proof.kernel for proof in found.layers} == {"ConvInteger", "DynamicQuantizeMatMul"}
    assert found.integer_fraction == 1.0


def test_layers_keep_their_operator_and_types(tmp_path: Path) -> None:
    layers = layers_from_onnx(with_integer_operators(tmp_path, "uint8", "int8").path)
    assert [layer.operator for layer in layers] == ["Conv", "Conv", "Gemm"]
    assert {(layer.activation, layer.weight) for layer in layers} == {("uint8", "int8")}


def test_weights_of_integer_operators_may_saturate(tmp_path: Path) -> None:
    path = with_integer_operators(tmp_path, "uint8", "int8", per_channel=True).path
    assert [found.macs for found in saturating_layers(path)] == MACS


def test_softmax_of_integers_gives_probabilities(tmp_path: Path) -> None:
    path = write_tiny(tmp_path, Shape(tail=("Softmax",)), name="softmax.onnx")
    quantised = tmp_path / "quantised.onnx"
    quantize_static(str(path), str(quantised), Pictures(), quant_format=QuantFormat.QOperator)
    assert artifact_from_onnx(quantised).output_kind == "probabilities"


def test_only_the_integer_version_is_planned(tmp_path: Path) -> None:
    pictures_of_ten_classes = tmp_path / "pictures"
    for source in sorted(Path(demo_recipe().data).iterdir())[:10]:
        (pictures_of_ten_classes / source.name).mkdir(parents=True)
        picture = next(source.iterdir())
        (pictures_of_ten_classes / source.name / picture.name).write_bytes(picture.read_bytes())
    model = with_integer_operators(tmp_path, "uint8", "int8").path
    recipe = Recipe(model=str(model), data=str(pictures_of_ten_classes), preprocess="unit", noise=("clean",))
    assert plan(recipe).versions == (("ort-cpu", "integer"),)
    with pytest.raises(HarnessError, match="already quantised, so there is no simulated version"):
        plan(Recipe(model=str(model), data=recipe.data, preprocess="unit", engines=("ort-cpu:simulated",)))


def test_inspect_shows_integer_operators(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = with_integer_operators(tmp_path, "uint8", "int8").path
    assert main(["inspect", str(path)]) == 0
    assert "of 202,832 multiply-accumulates per picture ran on integer kernels" in capsys.readouterr().out
    assert main(["inspect", str(path), "--for", "tensorrt"]) == 1
    assert "error: no-qoperator" in capsys.readouterr().out
