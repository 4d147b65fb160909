"""Which layers may saturate: the file's own weights decide, in the order in which the kernel takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from engines.artifact import Artifact
from engines.onnx_file import artifact_from_onnx
from engines.saturation import saturating_layers, worst_sums
from tests.engines.quantised import LAYERS, MACS, quantised_artifact
from tests.engines.tiny import tiny_artifact


def with_weights(artifact: Artifact, layer: str, values: np.ndarray) -> Artifact:
    """The same network with other int8 weights in one layer."""
    model = onnx.load(artifact.path)
    (stored,) = [tensor for tensor in model.graph.initializer if tensor.name == f"{layer}_w_int8"]
    stored.CopyFrom(numpy_helper.from_array(values.astype(np.int8), stored.name))
    onnx.save(model, artifact.path)
    return artifact_from_onnx(artifact.path)


def without_large_weights(artifact: Artifact) -> Artifact:
    for layer in LAYERS:
        (stored,) = [x for x in onnx.load(artifact.path).graph.initializer if x.name == f"{layer}_w_int8"]
        artifact = with_weights(artifact, layer, np.clip(numpy_helper.to_array(stored), -64, 64))
    return artifact


@pytest.mark.parametrize(
    ("pair", "overflows"),
    [
        ((64, 64), False),
        ((65, 64), True),
        ((127, -128), False),
        ((-64, -64), False),
        ((-64, -65), True),
        ((127, 1), False),
    ],
)
def test_pair_overflows_where_sixteen_bits_end(pair: tuple[int, int], overflows: bool) -> None:
    worst = 255 * np.array(pair)
    assert overflows == bool(worst[worst > 0].sum() > 32767 or worst[worst < 0].sum() < -32768)
    assert bool(worst_sums(np.array([pair], np.int8))[0, 0] > 1) == overflows


def test_last_of_an_odd_number_of_weights_is_alone() -> None:
    assert not (worst_sums(np.array([[1, 1, 127]], np.int8)) > 1).any()


def test_layers_with_large_weights_are_named_with_their_work(tmp_path: Path) -> None:
    found = saturating_layers(quantised_artifact(tmp_path).path)
    assert {layer.layer: layer.macs for layer in found} == {name: MACS[name] for name in ("conv1", "conv2", "gemm")}
    assert all(1 < layer.worst <= 2 and 0 < layer.pairs < 1 for layer in found)


def test_seven_bits_never_saturate(tmp_path: Path) -> None:
    assert saturating_layers(without_large_weights(quantised_artifact(tmp_path)).path) == ()


@pytest.mark.parametrize(("second", "saturates"), [((0, 1, 0, 0), True), ((0, 0, 0, 1), False)])
def test_pairs_of_a_convolution_are_neighbouring_channels(
    tmp_path: Path, second: tuple[int, int, int, int], saturates: bool
) -> None:
    artifact = without_large_weights(quantised_artifact(tmp_path))
    values = np.zeros((8, 8, 3, 3), np.int8)
    values[0, 0, 0, 0] = values[second] = 127
    found = saturating_layers(with_weights(artifact, "conv2", values).path)
    assert [layer.layer for layer in found] == (["conv2"] if saturates else [])


@pytest.mark.parametrize("signed", [True, False])
def test_signed_activations_do_not_saturate(tmp_path: Path, signed: bool) -> None:
    assert bool(saturating_layers(quantised_artifact(tmp_path, signed=signed).path)) is not signed


def test_float_network_does_not_saturate(tmp_path: Path) -> None:
    assert saturating_layers(tiny_artifact(tmp_path).path) == ()
