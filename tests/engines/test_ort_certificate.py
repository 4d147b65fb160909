"""The certificate of ONNX Runtime: what ran on integer kernels, and why the rest did not."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import onnx
import pytest

from engines import ort_certificate
from engines.artifact import Artifact
from engines.base import EngineError, EngineOptions
from engines.certificate import Certificate, LayerProof
from engines.macs import Layer
from engines.onnx_file import artifact_from_onnx
from engines.ort_certificate import certify_cpu
from tests.engines.quantised import LAYERS, MACS, quantised_artifact
from tests.engines.tiny import Shape, pictures, tensor, tiny_artifact, with_external_weights

on_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"),
    reason=f"which kernels ONNX Runtime has is written down here for x86, not for {platform.machine()}",
)

FLOAT_TWIN = EngineOptions(integer_kernels=False)


def certificate(artifact: Artifact, options: EngineOptions = EngineOptions(), batch: int = 1) -> Certificate:  # noqa: B008
    return certify_cpu(artifact, options, {"x": pictures(batch)})


def reasons(found: Certificate) -> dict[str, str | None]:
    return {proof.layer: proof.reason for proof in found.layers}


@on_x86
def test_fully_quantised_network_runs_on_integer_kernels_alone(tmp_path: Path) -> None:
    found = certificate(quantised_artifact(tmp_path))
    assert found.integer_fraction == 1.0
    assert found.fallbacks == ()
    assert {proof.layer: proof.macs for proof in found.layers} == MACS
    assert {proof.kernel for proof in found.layers} == {"QLinearConv", "QGemm"}
    assert all(proof.input_types == ("uint8", "int8") and proof.reason is None for proof in found.layers)


@on_x86
def test_residual_network_of_unsigned_activations_runs_on_integer_kernels(tmp_path: Path) -> None:
    found = certificate(quantised_artifact(tmp_path, residual=True))
    assert found.integer_fraction == 1.0
    assert "QLinearAdd(uint8)" in found.other_kernels


def test_float_network_runs_on_no_integer_kernel_and_says_why(tmp_path: Path) -> None:
    found = certificate(tiny_artifact(tmp_path))
    assert found.integer_fraction == 0.0
    assert found.total_macs == 55296 + 147456 + 80
    assert reasons(found) == dict.fromkeys(LAYERS, "its input is not quantised in the file")
    assert all(proof.kernel is not None and proof.input_types == ("float", "float") for proof in found.layers)


def test_integer_kernels_that_are_switched_off_do_not_run(tmp_path: Path) -> None:
    found = certificate(quantised_artifact(tmp_path), FLOAT_TWIN)
    assert found.integer_fraction == 0.0
    assert reasons(found) == dict.fromkeys(LAYERS, "integer kernels were switched off")
    assert found.evidence["integer_kernels_requested"] is False


@on_x86
@pytest.mark.parametrize("only", LAYERS)
def test_fraction_is_the_share_of_the_one_layer_that_is_quantised(tmp_path: Path, only: str) -> None:
    found = certificate(quantised_artifact(tmp_path, [only]))
    assert found.integer_fraction == pytest.approx(MACS[only] / sum(MACS.values()))
    assert [proof.layer for proof in found.layers if proof.integer] == [only]
    assert all("is not quantised in the file" in str(proof.reason) for proof in found.fallbacks)


@on_x86
def test_signed_activation_with_two_readers_falls_back_with_its_reason(tmp_path: Path) -> None:
    found = certificate(quantised_artifact(tmp_path, signed=True, residual=True))
    (proof,) = [each for each in found.fallbacks if each.layer == "conv2"]
    assert proof.input_types == ("float", "float")
    assert proof.reason == (
        "signed int8 activations with several readers stay in float on x86; write uint8 activations"
    )


@on_x86
def test_signed_output_with_two_readers_has_the_same_reason(tmp_path: Path) -> None:
    found = certificate(quantised_artifact(tmp_path, signed=True, residual=True))
    assert "signed int8 activations" in str(reasons(found)["conv1"])


def with_weights_alone(artifact: Artifact) -> Artifact:
    """The file without the Q/DQ pairs of its activations: int8 weights behind a DequantizeLinear are left."""
    model = onnx.load(artifact.path)
    graph = model.graph
    quantises = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    sources = {node.output[0]: node.input[0] for node in quantises}
    pairs = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in sources]
    renamed = {node.output[0]: sources[node.input[0]] for node in pairs}
    for node in (*quantises, *pairs):
        graph.node.remove(node)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
    path = artifact.path.with_name("weights.onnx")
    onnx.save(model, path)
    return artifact_from_onnx(path)


def test_weights_alone_are_quantised_and_run_in_float(tmp_path: Path) -> None:
    artifact = with_weights_alone(quantised_artifact(tmp_path))
    assert artifact.quantised
    found = certificate(artifact)
    assert found.integer_fraction == 0.0
    assert found.total_macs == sum(MACS.values())
    assert reasons(found) == dict.fromkeys(LAYERS, "weight-only int8: its activation is float")


def without_names(artifact: Artifact) -> Artifact:
    model = onnx.load(artifact.path)
    for node in model.graph.node:
        node.name = ""
    path = artifact.path.with_name("unnamed.onnx")
    onnx.save(model, path)
    return artifact_from_onnx(path)


@on_x86
@pytest.mark.parametrize("only", LAYERS)
def test_layers_without_names_are_certified_alike(tmp_path: Path, only: str) -> None:
    named = quantised_artifact(tmp_path, [only])
    found = certificate(without_names(named))
    assert [proof.integer for proof in found.layers] == [proof.integer for proof in certificate(named).layers]
    assert all(proof.kernel for proof in found.layers)


@on_x86
def test_layers_of_equal_work_are_told_apart(tmp_path: Path) -> None:
    model = onnx.load(quantised_artifact(tmp_path, ["conv2"]).path)
    twin = onnx.load(quantised_artifact(tmp_path, ["conv2"]).path)
    pooled = next(node for node in twin.graph.node if node.op_type == "GlobalAveragePool")
    extra = onnx.helper.make_node("Conv", [pooled.input[0], "twin_w"], ["twin_y"], "twin", pads=[1] * 4)
    position = [node.output[0] for node in model.graph.node].index(pooled.input[0]) + 1
    model.graph.node.insert(position, extra)
    for node in model.graph.node:
        if node.op_type == "GlobalAveragePool":
            node.input[0] = "twin_y"
    model.graph.initializer.append(tensor("twin_w", 8, 8, 3, 3, seed=9))
    path = tmp_path / "twin.onnx"
    onnx.save(model, path)
    found = certificate(artifact_from_onnx(path))
    assert {proof.layer: proof.integer for proof in found.layers if proof.macs == MACS["conv2"]} == {
        "conv2": True,
        "twin": False,
    }


def test_weights_beside_the_file_are_certified_too(tmp_path: Path) -> None:
    artifact = artifact_from_onnx(with_external_weights(tmp_path, "weights.bin"))
    found = certificate(artifact)
    assert len(found.layers) == 3
    assert all(proof.kernel for proof in found.layers)


@on_x86
def test_signed_activations_without_fan_out_run_on_integer_kernels(tmp_path: Path) -> None:
    assert certificate(quantised_artifact(tmp_path, signed=True)).integer_fraction == 1.0


@on_x86
def test_batch_changes_nothing_in_the_certificate(tmp_path: Path) -> None:
    artifact = quantised_artifact(tmp_path)
    assert certificate(artifact, batch=4).layers == certificate(artifact).layers


def test_channels_last_is_certified_alike(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path, Shape(nhwc=True))
    batch = pictures(1).transpose(0, 2, 3, 1).copy()
    found = certify_cpu(artifact, EngineOptions(), {"x": batch})
    assert [proof.macs for proof in found.layers] == [55296, 147456, 80]
    assert all(proof.kernel is not None for proof in found.layers)


def test_certificate_is_json_and_says_where_it_comes_from(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path)
    described = certificate(artifact).describe()
    assert json.loads(json.dumps(described))["integer_fraction"] == 0.0
    assert described["evidence"]["artifact_sha256"] == artifact.sha256
    assert described["evidence"]["provider"] == "CPUExecutionProvider"
    assert described["evidence"]["runtime"].startswith("onnxruntime ")


def proof(name: str, macs: int, integer: bool) -> LayerProof:
    return LayerProof(name, "Conv", macs, "Conv", ("float", "float"), integer, None if integer else "a reason")


def test_fraction_weighs_layers_by_their_work() -> None:
    layers = (proof("a", 10, True), proof("b", 70, False), proof("c", 20, True))
    found = Certificate(layers, {}, {})
    assert (found.integer_macs, found.total_macs, found.integer_fraction) == (30, 100, 0.3)


def test_fallbacks_come_largest_first() -> None:
    layers = (proof("a", 10, False), proof("b", 70, False), proof("c", 20, True), proof("d", 30, False))
    assert [each.layer for each in Certificate(layers, {}, {}).fallbacks] == ["b", "d", "a"]


def test_network_without_multiplications_has_no_fraction() -> None:
    assert Certificate((), {}, {}).integer_fraction is None


def test_node_on_another_provider_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = tiny_artifact(tmp_path)
    graph, events = ort_certificate._profile(artifact, EngineOptions(), {"x": pictures(1)}, tmp_path)
    events[0]["args"]["provider"] = "OtherExecutionProvider"
    monkeypatch.setattr(ort_certificate, "_profile", lambda *arguments: (graph, events))
    with pytest.raises(EngineError, match=r"nodes ran on .*OtherExecutionProvider"):
        certificate(artifact)


@pytest.mark.parametrize("types", [("uint8", "float"), ("float", "int8"), ("uint16", "int8")])
def test_layer_is_integer_only_when_activation_and_weight_are(types: tuple[str, str]) -> None:
    layer = Layer("a", "Conv", 10, "uint8", "int8", "quantised", False, False)
    kernel = ort_certificate.Kernel("a", "QLinearConv", "Conv", 10, types)
    assert ort_certificate._proof(layer, kernel, EngineOptions()).integer is False
