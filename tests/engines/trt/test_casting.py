"""Graphs in half precision: the same network within the precision, the same face to its caller."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.artifact import ArtifactError
from engines.trt.casting import model_in_half
from tests.engines.tiny import Shape, pictures, tiny
from tests.engines.trt.draft import CHANNELS, Draft
from tests.engines.trt.test_lint import sound


def answers(model: onnx.ModelProto, values: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": values})[0])


def test_a_network_in_fp16_answers_as_in_fp32_within_its_precision() -> None:
    model = tiny(Shape(batch_norm=True))
    cast = model_in_half(model, "fp16")
    onnx.checker.check_model(cast, full_check=True)
    values = pictures(4, seed=1)
    exact, half = answers(model, values), answers(cast, values)
    assert half.dtype == np.float32
    difference = np.abs(exact - half).max() / np.abs(exact).max()
    assert 0 < difference < 5e-3


def test_every_constant_is_cast_and_the_model_that_was_given_is_not() -> None:
    model = tiny(Shape())
    before = model.SerializeToString()
    cast = model_in_half(model, "bf16")
    assert model.SerializeToString() == before
    floats = {tensor.data_type for tensor in cast.graph.initializer} - {TensorProto.INT64}
    assert floats == {TensorProto.BFLOAT16}
    for value in (*cast.graph.input, *cast.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT


def test_qdq_is_cast_with_its_scales() -> None:
    model = sound().model()
    cast = model_in_half(model, "fp16")
    onnx.checker.check_model(cast, full_check=True)
    scales = {node.input[1] for node in cast.graph.node if node.op_type == "QuantizeLinear"}
    types = {tensor.name: tensor.data_type for tensor in cast.graph.initializer}
    assert {types[name] for name in scales} == {TensorProto.FLOAT16}


def test_qdq_of_an_old_opset_is_lifted() -> None:
    model = sound().model(opset=13)
    cast = model_in_half(model, "fp16")
    assert next(entry.version for entry in cast.opset_import if entry.domain == "") == 19
    onnx.checker.check_model(cast, full_check=True)


def test_what_does_not_fit_is_named() -> None:
    draft = Draft()
    draft.node("Mul", ["x", draft.constant("large", np.array(1e6, np.float32))], "y")
    with pytest.raises(ArtifactError, match=r"'large' holds 1e\+06, which float16 cannot hold; build in fp32"):
        model_in_half(draft.model(), "fp16")
    assert model_in_half(draft.model(), "bf16") is not None


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_scales_are_rounded_up_and_never_to_zero(precision: str) -> None:
    draft = Draft()
    given = np.array([1e-11, 3e-8, 1e-5, 0.1], np.float32)
    weight = draft.constant("weight", np.ones((CHANNELS, CHANNELS, 1, 1), np.float32))
    pair = draft.pair(weight, "weight_q", given, np.zeros(CHANNELS, np.int8))
    draft.conv(draft.pair("x", "x_q"), "conv", weight=pair)
    cast = model_in_half(draft.model(), precision)
    scales = next(tensor for tensor in cast.graph.initializer if tensor.name == "weight_q_scale")
    got = numpy_helper.to_array(scales).astype(np.float64)
    assert (got >= given).all()
    assert (got - given <= np.maximum(given * 2**-7, 2**-24)).all()


def test_small_weights_may_become_zero() -> None:
    draft = Draft()
    draft.node("Mul", ["x", draft.constant("small", np.full(8, 1e-9, np.float32))], "y")
    assert model_in_half(draft.model(), "fp16") is not None


def test_what_an_operator_takes_in_float_alone_stays_float() -> None:
    draft = Draft()
    scales = draft.constant("scales", np.array([1, 1, 2, 2], np.float32))
    draft.node("Resize", ["x", "", scales], "y", mode="nearest")
    cast = model_in_half(draft.model(), "fp16")
    assert cast.graph.initializer[0].data_type == TensorProto.FLOAT
    draft = Draft()
    scales = draft.node("Identity", [draft.constant("given", np.array([1, 1, 2, 2], np.float32))], "scales")
    draft.node("Resize", ["x", "", scales], "y", mode="nearest")
    with pytest.raises(ArtifactError, match="'scales' is computed for an operator that takes no half precision"):
        model_in_half(draft.model(), "fp16")


def test_constants_and_casts_inside_nodes_are_cast() -> None:
    one = numpy_helper.from_array(np.array(1, np.float32), "one")
    draft = Draft()
    draft.nodes.append(helper.make_node("Constant", [], ["c"], "c", value=one))
    draft.node("Add", ["x", "c"], "sum")
    draft.node("Cast", [draft.node("Cast", ["sum"], "whole", to=TensorProto.INT32)], "back", to=TensorProto.FLOAT)
    draft.node("Mul", ["back", draft.constant("two", np.full((1, CHANNELS, 1, 1), 2, np.float32))], "y")
    cast = model_in_half(draft.model(), "fp16")
    onnx.checker.check_model(cast, full_check=True)
    assert answers(cast, np.full((1, CHANNELS, 8, 8), 2.4, np.float32)).max() == 6.0
