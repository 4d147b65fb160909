"""Whole networks: the twin says what the engine says, with and without Q/DQ, and pictures have gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import harness.demo
from engines.artifact import Artifact
from engines.base import EngineOptions, call
from engines.onnx_file import artifact_from_onnx
from engines.ort import open_cpu
from exporters.base import ExportError, Quantisation, Source
from exporters.calibration import calibrate
from exporters.qdq import onnx_qdq
from exporters.ranges.minmax import MinMax
from exporters.targets import ort_cpu
from tests.engines.tiny import Shape, pictures, tiny_artifact

torch = pytest.importorskip("torch")

from exporters.twin.gate import Gate, gate_from_logits  # noqa: E402
from exporters.twin.network import twin_from_artifact  # noqa: E402

SOURCE = Source("minmax", {"a.png": "its content"}, "the preprocessing", {"clean": "the steps"})


def gate_of(artifact: Artifact, batch: np.ndarray) -> Gate:
    """Twin and engine on the same inputs."""
    engine = call(open_cpu(artifact, EngineOptions()), {artifact.input.name: batch}).outputs[artifact.output.name]
    with torch.no_grad():
        twin = twin_from_artifact(artifact)(torch.from_numpy(batch)).numpy()
    return gate_from_logits(engine, twin, artifact.quantised)


def quantised(artifact: Artifact, batch: np.ndarray, path: Path) -> Artifact:
    inputs = [batch[index : index + 1] for index in range(len(batch))]
    calibration = calibrate(artifact, inputs, SOURCE, MinMax)
    return onnx_qdq(artifact, calibration, Quantisation("ort-cpu"), ort_cpu(), path)


@pytest.mark.parametrize("shape", [Shape(), Shape(batch_norm=True), Shape(nhwc=True), Shape(batch=3), Shape(batch=1)])
def test_a_float_network_has_a_twin_to_rounding(shape: Shape, tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path, shape)
    batch = pictures(3, seed=4)
    if shape.nhwc:
        batch = np.ascontiguousarray(batch.transpose(0, 2, 3, 1))
    twin = twin_from_artifact(artifact)(torch.from_numpy(batch)).numpy()
    engine = open_cpu(artifact, EngineOptions())
    step = artifact.fixed_batch or len(batch)
    parts = [call(engine, {"x": batch[start : start + step]}).outputs["y"] for start in range(0, len(batch), step)]
    np.testing.assert_allclose(twin, np.concatenate(parts), atol=1e-5)


def test_a_batch_that_does_not_fill_a_fixed_one_is_answered_all_the_same(tmp_path: Path) -> None:
    fixed, free = (twin_from_artifact(tiny_artifact(tmp_path, Shape(batch=batch))) for batch in (3, "N"))
    batch = torch.from_numpy(pictures(7, seed=4))
    torch.testing.assert_close(fixed(batch), free(batch))


def test_a_quantised_network_has_a_twin_whose_codes_rarely_differ(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path, Shape(batch_norm=True))
    made = quantised(artifact, pictures(12, seed=3), tmp_path / "tiny.int8.onnx")
    gate = gate_of(made, pictures(50, seed=5))
    assert gate.speaks, gate.reason
    assert gate.parity.mean_error < 0.05 * gate.parity.spread


def test_the_demo_network_and_its_integers_have_twins(tmp_path: Path) -> None:
    artifact = artifact_from_onnx(Path(harness.demo.__file__).parent / "shapes.onnx")
    batch = np.random.default_rng(6).normal(0, 1, (16, 3, *artifact.size)).astype(np.float32)
    exact = gate_of(artifact, batch)
    assert exact.parity.agreement == 1
    assert exact.parity.max_error < 1e-4
    made = quantised(artifact, batch[:8], tmp_path / "shapes.int8.onnx")
    gate = gate_of(made, batch)
    assert gate.parity.mean_error < 0.1 * gate.parity.spread, gate.reason


def test_weights_are_frozen_and_inputs_have_gradients(tmp_path: Path) -> None:
    made = quantised(tiny_artifact(tmp_path), pictures(12, seed=3), tmp_path / "tiny.int8.onnx")
    twin = twin_from_artifact(made)
    assert not list(twin.parameters())
    assert not any(buffer.requires_grad for buffer in twin.buffers())
    x = torch.from_numpy(pictures(2, seed=7)).requires_grad_()
    before = twin(x)
    before[:, 0].sum().backward()
    assert (x.grad != 0).float().mean() > 0.5
    assert torch.equal(twin.train()(x), before)


def test_a_plan_has_no_twin(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="give the ONNX file that it was built from"):
        twin_from_artifact(replace(tiny_artifact(tmp_path), format="plan"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_tf", "mobilenetv2_tf.ptq.qdq", "squeezenet1.1"])
def test_real_models_have_twins(name: str, real_data: Path) -> None:
    artifact = artifact_from_onnx(real_data / "models" / f"{name}.onnx")
    batch = np.random.default_rng(6).normal(0, 1, (4, 3, *artifact.size)).astype(np.float32)
    gate = gate_of(artifact, batch)
    assert gate.parity.mean_error < (0.1 if artifact.quantised else 1e-5) * gate.parity.spread, gate.reason
