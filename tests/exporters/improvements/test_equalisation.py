"""Cross-layer equalisation: the network stays itself, and the channels of neighbours have one size."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from exporters.improvements.base import Improved
from exporters.improvements.equalisation import CrossLayerEqualisation
from tests.engines.tiny import pictures, tiny
from tests.exporters.improvements.networks import SIZE, constants, folded, material, mobile

PICTURES = pictures(6, seed=12, size=SIZE) * 3
CHAIN = ("first", "depthwise", "pointwise", "grouped")


def equalised(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Improved]:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    return changed, CrossLayerEqualisation()(changed, model, material())


def answers(model: onnx.ModelProto, names: tuple[str, ...] = ("y",)) -> list[np.ndarray]:
    """By ONNX's own evaluator."""
    return ReferenceEvaluator(model).run(list(names), {"x": PICTURES})


def sizes(model: onnx.ModelProto, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The largest weight of every output channel and of every input channel, by a plain loop."""
    node = next(node for node in model.graph.node if node.name == name)
    weight = np.abs(constants(model)[node.input[1]]).astype(np.float64)
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    outputs, inputs = len(weight), weight.shape[1] * groups
    by_input = np.zeros(inputs)
    for output in range(outputs):
        group = output // (outputs // groups)
        for place in range(weight.shape[1]):
            channel = group * weight.shape[1] + place
            by_input[channel] = max(by_input[channel], weight[output, place].max())
    return weight.reshape(outputs, -1).max(axis=1), by_input


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [8, 1, 2])
def test_the_network_answers_as_before(tmp_path: Path, bias: bool, groups: int) -> None:
    model = folded(mobile(tmp_path, bias=bias, groups=groups))
    changed, done = equalised(model)
    onnx.checker.check_model(changed, full_check=True)
    assert done.changed == CHAIN
    (before,), (after,) = answers(model), answers(changed)
    assert np.abs(after - before).max() < 1e-5 * np.abs(before).max()


@pytest.mark.parametrize("groups", [8, 1, 2])
def test_neighbours_have_channels_of_one_size(tmp_path: Path, groups: int) -> None:
    model = folded(mobile(tmp_path, groups=groups, bias=False))
    changed, _ = equalised(model)
    for first, second in pairwise(CHAIN):
        old = np.abs(np.log(sizes(model, first)[0] / sizes(model, second)[1]))
        new = np.abs(np.log(sizes(changed, first)[0] / sizes(changed, second)[1]))
        assert old.max() > 1
        assert new.max() < 1e-3


def test_biases_count_for_a_tenth(tmp_path: Path) -> None:
    model = folded(mobile(tmp_path))
    changed, _ = equalised(model)
    for first, second in pairwise(CHAIN):
        node = next(node for node in changed.graph.node if node.name == first)
        whole = np.maximum(sizes(changed, first)[0], 0.1 * np.abs(constants(changed)[node.input[2]]))
        assert np.allclose(whole, sizes(changed, second)[1], rtol=1e-3)


def test_a_channel_of_bias_alone_is_not_enlarged_without_end(tmp_path: Path) -> None:
    """MobileNetV2 has such channels: their weights died in training, and their outputs are their biases."""
    model = folded(mobile(tmp_path))
    with_weights(model, "w1", 2, 1e-9)
    (before,), (after,) = answers(model, ("r1",)), answers(equalised(model)[0], ("r1",))
    assert after.max() < 20 * before.max()


def with_weights(model: onnx.ModelProto, name: str, channel: int, factor: float) -> None:
    """Multiply the weights of one output channel."""
    tensor = next(each for each in model.graph.initializer if each.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[channel] *= np.float32(factor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))


def test_one_pair_is_scaled_by_the_formula(tmp_path: Path) -> None:
    model = folded(mobile(tmp_path))
    nodes = [node for node in model.graph.node if node.name in ("first", "cap1", "depthwise")]
    outputs = [onnx.ValueInfoProto(name="c2")]
    alone = helper.make_model(
        helper.make_graph(nodes, "pair", model.graph.input, outputs, model.graph.initializer),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    changed, _ = equalised(alone)
    weights, r2 = sizes(alone, "first")[0], sizes(alone, "depthwise")[1]
    r1 = np.maximum(weights, 0.1 * np.abs(constants(alone)["b1"]))
    s = 1 / r2 * np.sqrt(r1 * r2)
    assert np.allclose(sizes(changed, "first")[0], weights / s, rtol=1e-6)
    assert np.allclose(sizes(changed, "depthwise")[1], np.sqrt(r1 * r2), rtol=1e-6)
    caps = next(node.input[1] for node in changed.graph.node if node.op_type == "Min")
    assert np.allclose(constants(changed)[caps].ravel(), 6 / s, rtol=1e-6)


def test_caps_are_reached_in_the_test(tmp_path: Path) -> None:
    """Else the equality above would say nothing of ReLU6."""
    for values in answers(folded(mobile(tmp_path)), ("c1", "c2")):
        assert (values > 6).mean() > 0.01


def test_channels_of_zeros_stay(tmp_path: Path) -> None:
    model = folded(mobile(tmp_path))
    with_weights(model, "w1", 2, 0)
    changed, _ = equalised(model)
    assert np.isfinite(answers(changed)[0]).all()
    assert np.allclose(answers(changed)[0], answers(model)[0], rtol=1e-4, atol=1e-5)
    assert sizes(changed, "first")[0][2] == 0


def test_layers_that_cannot_share_are_left_with_the_reason(tmp_path: Path) -> None:
    changed, done = equalised(folded(mobile(tmp_path)))
    assert [(each.layer, each.reason) for each in done.left] == [("grouped", "Flatten stands behind it")]
    model = tiny()
    _, done = equalised(model)
    assert not done.changed
    reasons = {each.layer: each.reason for each in done.left}
    assert reasons == {"conv1": "more than one node reads its output", "conv2": "Add stands behind it"}
    assert changed.graph.node
