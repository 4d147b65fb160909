"""The graph that learns and the file that it becomes: the same codes, the same scales, the same answers."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from engines.artifact import Artifact
from engines.base import EngineOptions, call
from engines.onnx_file import artifact_from_onnx
from engines.ort import open_cpu
from engines.ort_certificate import certify_cpu
from exporters import TRAINED
from exporters.base import ExportError, Quantisation, Source
from exporters.calibration import calibrate
from exporters.folding import folded_model
from exporters.qat.graph import FakeQuantised, float_constants, layers_from_qdq
from exporters.qat.options import Bits
from exporters.qat.start import begin
from exporters.qat.write import trained_model
from exporters.qdq import onnx_qdq
from exporters.ranges.minmax import MinMax
from exporters.targets import ort_cpu
from exporters.twin.network import twin_from_artifact
from tests.engines.tiny import SIZE, Shape, tiny, tiny_artifact
from tests.exporters.qat.test_quantisers import method


def inputs(count: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, SIZE, SIZE), dtype=np.float32)


def quantised(folder: Path, artifact: Artifact) -> onnx.ModelProto:
    calibration = calibrate(artifact, [each[None] for each in inputs(4)], Source("minmax", {}, "", {}), MinMax)
    path = folder / "started.onnx"
    onnx_qdq(artifact, calibration, Quantisation("ort-cpu", weight_bits=8), ort_cpu(), path)
    return onnx.load(str(path))


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return tiny_artifact(tmp_path, Shape(batch_norm=True))


def learner(artifact: Artifact, model: onnx.ModelProto, name: str, bits: Bits) -> FakeQuantised:
    floats = float_constants(folded_model(artifact), layers_from_qdq(model.graph))
    return FakeQuantised(model, floats, method(name), bits)


def some_steps(network: FakeQuantised, count: int = 3) -> None:
    """Far enough from where it began that every number has moved."""
    optimiser = torch.optim.SGD(network.parameters(), 0.01)
    labels = torch.arange(16) % 10
    for step in range(count):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(torch.from_numpy(inputs(seed=step))), labels)
        torch.autograd.backward(loss)
        optimiser.step()
    network.eval()


def saved(folder: Path, model: onnx.ModelProto) -> Artifact:
    onnx.save(model, str(folder / "trained.onnx"))
    return artifact_from_onnx(folder / "trained.onnx")


def engine_logits(artifact: Artifact) -> np.ndarray:
    with closing(open_cpu(artifact, EngineOptions())) as engine:
        return np.asarray(call(engine, {artifact.input.name: inputs(seed=9)}).outputs[artifact.output.name])


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("name", TRAINED)
def test_the_engine_says_what_was_trained_and_computes_on_integers(
    tmp_path: Path, artifact: Artifact, name: str, bits: int
) -> None:
    model = quantised(tmp_path, artifact)
    network = learner(artifact, model, name, Bits(bits, bits))
    some_steps(network)
    trained = saved(tmp_path, trained_model(model, network))
    with torch.no_grad():
        ours = network(torch.from_numpy(inputs(seed=9))).numpy()
    np.testing.assert_allclose(engine_logits(trained), ours, atol=0.1 * ours.std())
    assert np.abs(engine_logits(trained) - ours).mean() < 0.01 * ours.std()
    certificate = certify_cpu(trained, EngineOptions(), {"x": inputs(1)})
    assert certificate.integer_fraction == 1


@pytest.mark.parametrize("name", TRAINED)
def test_codes_and_scales_of_the_file_are_those_that_were_trained(
    tmp_path: Path, artifact: Artifact, name: str
) -> None:
    model = quantised(tmp_path, artifact)
    network = learner(artifact, model, name, Bits(3, 5))
    some_steps(network)
    stored = {each.name: numpy_helper.to_array(each) for each in trained_model(model, network).graph.initializer}
    for place, layer in enumerate(network.layers):
        quantiser = network.weight_quantiser(place)
        values = network.weights[place].detach()
        codes, scales = stored[layer.weight.stored], stored[layer.weight.scale]
        assert codes.dtype == np.int8
        np.testing.assert_array_equal(codes, quantiser.codes(values).numpy())
        real = codes * scales.reshape(-1, *[1] * (codes.ndim - 1))
        np.testing.assert_allclose(real, quantiser(values).detach().numpy(), rtol=1e-5, atol=1e-6)
        assert layer.bias is not None
        units = stored[layer.bias.scale]
        np.testing.assert_allclose(
            units, stored[layer.activation] * scales, rtol=1e-6
        )  # as integer kernels take them, whatever the file says
        distance = stored[layer.bias.stored] * units - network.biases[str(place)].detach().numpy()
        assert (np.abs(distance) <= 0.5001 * units).all()


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_reach_weights_biases_and_what_the_method_learns(
    tmp_path: Path, artifact: Artifact, name: str
) -> None:
    network = learner(artifact, quantised(tmp_path, artifact), name, Bits(4, 4))
    logits = network(torch.from_numpy(3 * inputs()))  # beyond calibration's reach, where a clip has its gradient
    torch.autograd.backward(torch.nn.functional.cross_entropy(logits, torch.arange(16) % 10))
    for what, parameter in network.named_parameters():
        assert parameter.grad is not None, what
        assert parameter.grad.abs().max() > 0, what
    learnt = [what for what, _ in network.named_parameters() if "quantisers" in what]
    count = {"lsq": len(network.layers) + len(network.activations), "pact": len(network.activations), "dorefa": 0}
    assert len(learnt) == count[name]
    decayed, free = network.decayed_and_free()
    assert len(decayed) == len(network.layers) + (len(network.activations) if name == "pact" else 0)
    assert len(decayed) + len(free) == len(list(network.parameters()))


def test_only_weights_and_inputs_of_inner_layers_have_the_few_bits(tmp_path: Path, artifact: Artifact) -> None:
    network = learner(artifact, quantised(tmp_path, artifact), "lsq", Bits(2, 3, first_last=7))
    assert [network.weight_quantiser(place).levels.bits for place in range(3)] == [7, 2, 7]
    read = [network.activation_quantiser(layer.activation).levels.bits for layer in network.layers]
    assert read == [7, 3, 7]
    others = {each.scale for each in network.activations} - {layer.activation for layer in network.layers}
    assert others
    assert {network.activation_quantiser(scale).levels.bits for scale in others} == {8}


def test_activations_behind_a_relu_have_no_level_below_zero(tmp_path: Path, artifact: Artifact) -> None:
    network = learner(artifact, quantised(tmp_path, artifact), "lsq", Bits(4, 4))
    signed = [network.activation_quantiser(layer.activation).levels.signed for layer in network.layers]
    assert signed == [True, False, False]


@pytest.mark.parametrize("name", TRAINED)
def test_no_activation_of_the_engine_leaves_its_levels(tmp_path: Path, artifact: Artifact, name: str) -> None:
    model = quantised(tmp_path, artifact)
    network = learner(artifact, model, name, Bits(2, 2))
    written = trained_model(model, network)
    names = [node.output[0] for node in written.graph.node if node.op_type == "Clip"]
    assert names
    written.graph.output.extend(helper.make_tensor_value_info(each, onnx.TensorProto.UINT8, None) for each in names)
    session = onnxruntime.InferenceSession(written.SerializeToString(), providers=["CPUExecutionProvider"])
    inner = next(each for each in names if network.layers[1].activation.removesuffix("_scale") in each)
    codes = session.run([inner], {"x": 30 * inputs()})[0]
    assert set(np.unique(codes)) <= {0, 1, 2, 3}
    assert codes.max() == 3


def test_the_trained_file_has_a_twin_itself(tmp_path: Path, artifact: Artifact) -> None:
    model = quantised(tmp_path, artifact)
    network = learner(artifact, model, "lsq", Bits(4, 4))
    twin = twin_from_artifact(saved(tmp_path, trained_model(model, network)))
    batch = torch.from_numpy(inputs()).requires_grad_()
    torch.testing.assert_close(twin(batch), network(batch), rtol=1e-4, atol=1e-4)
    torch.autograd.backward(twin(batch).sum())
    assert batch.grad is not None
    assert batch.grad.abs().max() > 0


def test_tensors_that_pass_through_a_pooling_keep_one_scale(tmp_path: Path) -> None:
    model = tiny()
    pooled = next(node for node in model.graph.node if node.name == "conv2")
    source = pooled.input[0]
    place = list(model.graph.node).index(pooled)
    attributes = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [1, 1]}
    model.graph.node.insert(place, helper.make_node("MaxPool", [source], ["largest"], "window", **attributes))
    pooled = next(node for node in model.graph.node if node.name == "conv2")
    pooled.input[0] = "largest"
    onnx.save(model, str(tmp_path / "pooled.onnx"))
    artifact = artifact_from_onnx(tmp_path / "pooled.onnx")
    started = quantised(tmp_path, artifact)
    network = learner(artifact, started, "lsq", Bits(3, 3))
    some_steps(network)
    trained = saved(tmp_path, trained_model(started, network))
    with torch.no_grad():
        ours = network(torch.from_numpy(inputs(seed=9))).numpy()
    np.testing.assert_allclose(engine_logits(trained), ours, atol=0.1 * ours.std())
    assert certify_cpu(trained, EngineOptions(), {"x": inputs(1)}).integer_fraction == 1


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(ExportError, match="expected 2 to 8 bits; got"):
        Bits(bits, 8)


@pytest.mark.parametrize("name", TRAINED)
def test_activations_begin_where_few_bits_round_them_with_less_error(
    tmp_path: Path, artifact: Artifact, name: str
) -> None:
    network = learner(artifact, quantised(tmp_path, artifact), name, Bits(8, 2))
    batch = torch.from_numpy(inputs())
    inner = network.activation_quantiser(network.layers[1].activation)
    seen: list[torch.Tensor] = []
    hook = inner.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    network(batch)
    hook.remove()
    values = seen[0].clamp(min=0)
    before = float((inner(values) - values).square().mean().detach())
    begin(network, method(name), batch)
    assert float((inner(values) - values).square().mean().detach()) < 0.8 * before


@pytest.mark.parametrize("name", TRAINED)
def test_channels_begin_with_the_means_that_they_have_without_rounding(
    tmp_path: Path, artifact: Artifact, name: str
) -> None:
    network = learner(artifact, quantised(tmp_path, artifact), name, Bits(2, 2))
    batch = inputs()
    begin(network, method(name), torch.from_numpy(batch))
    model = folded_model(artifact)
    first = next(node for node in model.graph.node if node.op_type in ("Conv", "FusedConv"))
    model.graph.output.append(helper.make_empty_tensor_value_info(first.output[0]))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = session.run([first.output[0]], {"x": batch})[0].mean(axis=(0, 2, 3))
    seen: list[torch.Tensor] = []
    place = next(i for i, each in enumerate(network.activations) if each.sources == (network.layers[0].output,))
    hook = network.activation_quantisers[place].register_forward_pre_hook(
        lambda module, given: seen.append(given[0].detach())
    )
    network(torch.from_numpy(batch))
    hook.remove()
    np.testing.assert_allclose(seen[0].mean((0, 2, 3)).numpy(), wanted, atol=1e-3)
