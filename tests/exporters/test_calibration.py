"""Calibration as a whole: the right tensors, bounded memory, and an artifact that knows what it belongs to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from engines.artifact import Artifact
from engines.onnx_file import artifact_from_onnx
from exporters import METHODS
from exporters.base import Calibration, ExportError, Source, check_model, read_calibration, write_calibration
from exporters.calibration import calibrate
from exporters.folding import folded_model
from exporters.ranges.minmax import MinMax
from harness.calibrate import observer_factory
from tests.engines.tiny import Shape, pictures, tiny, tiny_artifact

Array = npt.NDArray[np.float32]

PICTURES = [picture[None] for picture in pictures(12, seed=3)]
SOURCE = Source("minmax", {"a.png": "1", "b.png": "2"}, "the preprocessing", {"clean": "the steps"})


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return tiny_artifact(tmp_path, Shape(batch_norm=True))


@pytest.fixture
def calibration(artifact: Artifact) -> Calibration:
    return calibrate(artifact, PICTURES, SOURCE, MinMax)


def values_by_reference(model: onnx.ModelProto, names: list[str]) -> dict[str, Array]:
    """Every named activation over the calibration pictures, by ONNX's own evaluator."""
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    results = ReferenceEvaluator(model).run(names, {"x": np.concatenate(PICTURES)})
    return {name: np.asarray(value) for name, value in zip(names, results, strict=True)}


def test_batch_norms_are_folded_and_the_answers_stay(artifact: Artifact) -> None:
    folded = folded_model(artifact)
    operators = {node.op_type for node in folded.graph.node}
    assert "BatchNormalization" in {node.op_type for node in onnx.load(str(artifact.path)).graph.node}
    assert "BatchNormalization" not in operators
    assert {"Conv", "Relu", "Gemm"} <= operators
    assert all(node.name for node in folded.graph.node)
    feeds = {"x": PICTURES[0]}
    wanted = ReferenceEvaluator(onnx.load(str(artifact.path))).run(None, feeds)[0]
    assert np.allclose(ReferenceEvaluator(folded).run(None, feeds)[0], wanted, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_ranges_are_those_of_an_independent_run(artifact: Artifact, method: str) -> None:
    calibration = calibrate(artifact, PICTURES, SOURCE, observer_factory(method))
    folded = folded_model(artifact)
    made = [name for node in folded.graph.node for name in node.output]
    names = [name for name in made if name in calibration.ranges and name != "y"]
    assert len(names) >= 6
    for name, values in values_by_reference(folded, names).items():
        observer = observer_factory(method)()
        for picture in values:
            observer.observe(np.ascontiguousarray(picture))
        assert calibration.ranges[name] == pytest.approx(observer.range(), rel=0.02, abs=1e-3)


def test_every_activation_that_the_quantiser_asks_for_is_there(artifact: Artifact, calibration: Calibration) -> None:
    """ONNX Runtime's own calibrator, asked for the same operators, names the same tensors."""
    from onnxruntime.quantization.calibrate import MinMaxCalibrater

    from exporters.calibration import OPERATORS

    path = artifact.path.with_name("folded.onnx")
    onnx.save(folded_model(artifact), str(path))
    theirs, _ = MinMaxCalibrater(str(path), OPERATORS).select_tensors_to_calibrate(onnx.load(str(path)))
    assert set(theirs) <= set(calibration.ranges)


def test_range_of_the_input_is_that_of_the_pictures(calibration: Calibration) -> None:
    everything = np.concatenate(PICTURES)
    assert calibration.ranges["x"] == (everything.min(), everything.max())


def test_order_of_the_pictures_does_not_change_the_ranges(artifact: Artifact, calibration: Calibration) -> None:
    assert calibrate(artifact, PICTURES[::-1], SOURCE, MinMax) == calibration


def test_calibration_without_pictures_is_refused(artifact: Artifact) -> None:
    with pytest.raises(ExportError, match="needs at least one picture; got none"):
        calibrate(artifact, [], SOURCE, MinMax)


def test_calibration_takes_pictures_one_at_a_time(artifact: Artifact) -> None:
    alive = 0
    most = 0

    class Counted(np.ndarray):  # type: ignore[type-arg]
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def lazily() -> object:
        nonlocal alive, most
        for picture in PICTURES:
            alive += 1
            most = max(most, alive)
            yield picture.view(Counted)

    calibrate(artifact, lazily(), SOURCE, MinMax)  # type: ignore[arg-type]
    assert most <= 3


def test_activations_that_are_not_finite_are_named(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path)
    with pytest.raises(ExportError, match="the activation 'x' takes values that are not finite"):
        calibrate(artifact, [np.full((1, 3, 32, 32), np.nan, np.float32)], SOURCE, MinMax)


def test_calibration_survives_its_file(calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_calibration(calibration, path)
    assert read_calibration(path) == calibration


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stored: stored.update(format="calibration 0"), "expected a file of the format"),
        (lambda stored: stored.pop("ranges"), "not a whole calibration"),
        (lambda stored: stored["source"].pop("method"), "not a whole calibration"),
        (lambda stored: stored["ranges"].update(x=[1.0]), "not a whole calibration"),
        (lambda stored: stored["ranges"].update(x=[2.0, 1.0]), r"the range of 'x' is \[2.0, 1.0\]"),
        (lambda stored: stored["ranges"].update(x=[0.0, float("inf")]), "the range of 'x' is"),
    ],
)
def test_a_spoilt_file_is_refused(calibration: Calibration, tmp_path: Path, change: object, message: str) -> None:
    path = tmp_path / "c.json"
    write_calibration(calibration, path)
    stored = json.loads(path.read_text())
    change(stored)  # type: ignore[operator]
    path.write_text(json.dumps(stored))
    with pytest.raises(ExportError, match=message):
        read_calibration(path)


@pytest.mark.parametrize("text", ["no JSON", "[]", "3"])
def test_what_is_no_calibration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ExportError, match=r"c\.json"):
        read_calibration(tmp_path / "c.json")
    with pytest.raises(ExportError, match="qharness calibrate MODEL"):
        read_calibration(tmp_path / "none.json")


def test_calibration_belongs_to_one_model(artifact: Artifact, calibration: Calibration) -> None:
    check_model(calibration, artifact.sha256, artifact.path)
    with pytest.raises(ExportError, match="another model"):
        check_model(calibration, "0" * 64, artifact.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "entropy"}, "the method minmax, not entropy"),
        ({"preprocessing": "other"}, "another preprocessing"),
        ({"conditions": {"fog:2": "steps"}}, "clean, not fog:2"),
        ({"pictures": {"a.png": "1"}}, "other pictures"),
        ({"seed": 1}, "the seed 0, not 1"),
    ],
)
def test_a_difference_of_sources_is_named(change: dict[str, object], message: str) -> None:
    assert SOURCE.difference(SOURCE) is None
    assert SOURCE.difference(replace(SOURCE, **change)) == message  # type: ignore[arg-type]


def opset_9(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 9


def half_weights(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[0]
    half = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), f"{weight.name}_half")
    model.graph.initializer.append(half)
    model.graph.node.insert(0, helper.make_node("Cast", [half.name], [weight.name], to=TensorProto.FLOAT))
    model.graph.initializer.remove(weight)


def control_flow(model: onnx.ModelProto) -> None:
    last = model.graph.node[-1]
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("Identity", [last.input[0]], [f"{name}_out"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)],
        )
        for name in ("then", "else")
    }
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "choice"))
    model.graph.node.remove(last)
    model.graph.node.append(helper.make_node("If", ["choice"], ["y"], **branches))


def saved(model: onnx.ModelProto, folder: Path) -> Artifact:
    path = folder / "changed.onnx"
    onnx.save(model, str(path))
    return artifact_from_onnx(path)


@pytest.mark.parametrize(
    ("change", "message"), [(half_weights, "1 weights of .* half precision"), (control_flow, r"control flow \(If\)")]
)
def test_models_that_cannot_be_quantised_say_why(tmp_path: Path, change: object, message: str) -> None:
    model = tiny()
    change(model)  # type: ignore[operator]
    with pytest.raises(ExportError, match=message):
        folded_model(saved(model, tmp_path))


def test_an_old_opset_is_lifted(tmp_path: Path) -> None:
    model = tiny()
    opset_9(model)
    artifact = saved(model, tmp_path)
    folded = folded_model(artifact)
    assert folded.opset_import[0].version >= 13
    calibration = calibrate(artifact, PICTURES[:2], SOURCE, MinMax)
    assert calibration.ranges


def test_weights_of_two_gibibytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporters.folding._LIMIT_BYTES", 1000)
    with pytest.raises(ExportError, match="expected less than 2 GiB"):
        folded_model(tiny_artifact(tmp_path))
