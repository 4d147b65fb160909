"""Bias correction: on the calibration pictures no channel of any layer is off on average."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from engines.artifact import Artifact
from engines.base import EngineOptions
from engines.ort_certificate import certify_cpu
from exporters.base import ExportError
from exporters.improve import improved_quantised
from exporters.improvements.base import Material
from exporters.improvements.bias_correction import BiasCorrection
from exporters.tapped import Tapped
from tests.exporters.improvements.networks import (
    CALIBRATION,
    constants,
    folded,
    layer_output,
    loaded,
    material,
    mobile,
    quantised,
    transformer,
)

LAYERS = ("first", "depthwise", "pointwise", "grouped", "gemm")


def corrected(artifact: Artifact, made: Artifact) -> Artifact:
    path = made.path.with_suffix(".corrected.onnx")
    return improved_quantised(made, artifact, {"bias-correction": BiasCorrection()}, material(), path)


def channel_errors(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """The mean of each channel of ``got`` minus that of ``exact``."""
    return np.moveaxis(got.astype(np.float64) - exact, 1, 0).reshape(got.shape[1], -1).mean(axis=1)


def bias_step(model: onnx.ModelProto, name: str) -> np.ndarray:
    """The step of a layer's bias; 0 where it is float."""
    makers = {output: node for node in model.graph.node for output in node.output}
    bias = makers.get(next(node for node in model.graph.node if node.name == name).input[2])
    return np.asarray(constants(model)[bias.input[1]] if bias else 0.0, np.float64)


def simulated(made: Artifact, name: str) -> np.ndarray:
    """What a layer of a Q/DQ file makes of the calibration pictures, in float on ONNX Runtime."""
    output = next(node for node in loaded(made).graph.node if node.name == name).output[0]
    return Tapped(loaded(made), [output], simulated=True)(CALIBRATION)[output]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("target", "weights"),
    [("ort-cpu", "per-tensor"), ("ort-cpu", "per-channel"), ("tensorrt", "per-tensor"), ("simulated", "per-tensor")],
)
def test_no_channel_is_off_on_average(tmp_path: Path, bias: bool, target: str, weights: str) -> None:
    """By half a step of the bias at most in the simulation on ONNX Runtime. ONNX's own evaluator sums in another order,
    so now and then an activation before the layer rounds to the other level: a hundredth of the spread is allowed."""
    artifact = mobile(tmp_path, bias=bias)
    plain = quantised(artifact, target, weights)
    made = corrected(artifact, plain)
    off_before = 0
    for name in LAYERS:
        exact = layer_output(folded(artifact), name)
        half = 0.5 * bias_step(loaded(made), name) + 1e-5 * exact.std()
        assert np.all(np.abs(channel_errors(simulated(made, name), exact)) < half), name
        by_evaluator = channel_errors(layer_output(loaded(made), name), exact)
        assert np.all(np.abs(by_evaluator) < half + 1e-2 * exact.std()), name
        off_before += bool(np.any(np.abs(channel_errors(simulated(plain, name), exact)) > 5 * half))
    assert off_before >= 3


@pytest.mark.parametrize(("target", "bias"), [("tensorrt", True), ("tensorrt", False), ("simulated", True)])
def test_biases_that_a_target_wants_in_float_stay_in_float(tmp_path: Path, target: str, bias: bool) -> None:
    artifact = mobile(tmp_path, bias=bias)
    model = loaded(corrected(artifact, quantised(artifact, target)))
    values = constants(model)
    biases = [values[node.input[2]].dtype for node in model.graph.node if node.name in LAYERS]
    assert len(biases) == len(LAYERS)
    assert set(biases) == {np.dtype(np.float32)}


@pytest.mark.parametrize("bias", [True, False])
def test_every_layer_still_runs_on_integer_kernels(tmp_path: Path, bias: bool) -> None:
    artifact = mobile(tmp_path, bias=bias)
    made = corrected(artifact, quantised(artifact))
    proof = certify_cpu(made, EngineOptions(), {"x": CALIBRATION[:1]})
    assert [layer.layer for layer in proof.layers if not layer.integer] == []
    assert len(proof.layers) == len(LAYERS)
    assert made.made_by["improvements"]["bias-correction"]["changed"] == list(LAYERS)


def test_products_without_a_bias_are_left(tmp_path: Path) -> None:
    artifact = transformer(tmp_path)
    model = loaded(quantised(artifact))
    done = BiasCorrection()(model, folded(artifact), material())
    assert done.changed == ("patches", "head")
    assert {each.layer: each.reason for each in done.left} == {
        "queries": "a MatMul has no bias of its own to correct",
        "keys": "a MatMul has no bias of its own to correct",
    }


def test_a_bias_that_two_layers_share_is_corrected_for_each(tmp_path: Path) -> None:
    """Exporters store equal biases once."""
    artifact = mobile(tmp_path)
    model = loaded(artifact)
    next(node for node in model.graph.node if node.name == "depthwise").input[2] = "b1"
    onnx.save(model, str(artifact.path))
    for target in ("ort-cpu", "tensorrt"):
        plain = quantised(artifact, target)
        made = corrected(artifact, plain)
        assert made.made_by["improvements"]["bias-correction"]["changed"] == list(LAYERS)
        for name in LAYERS:
            exact = layer_output(folded(artifact), name)
            half = 0.5 * bias_step(loaded(made), name) + 1e-5 * exact.std()
            off = np.abs(channel_errors(simulated(made, name), exact))
            assert np.all(off < half), name


def test_it_needs_pictures(tmp_path: Path) -> None:
    artifact = mobile(tmp_path)
    with pytest.raises(ExportError, match="bias-correction looks at calibration pictures; got none"):
        BiasCorrection()(loaded(quantised(artifact)), folded(artifact), Material(lambda: [], lambda what, items: items))
