"""LiteRT: integers at its edges, its three sets of kernels, and its certificate."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'qharness[litert]'")

from engines.artifact import Artifact
from engines.base import Array, EngineError, EngineOptions
from engines.certificate import Certificate
from engines.litert.certificate import certify_cpu
from engines.litert.engine import open_cpu
from engines.litert.graph import RESOLVERS, Tensor
from tests.engines.conformance import answer, engine_of
from tests.engines.litert.files import tflite_artifact
from tests.engines.litert.test_file import LEVELS, UNIT
from tests.engines.tiny import CLASSES, SIZE, Shape, pictures, reference, write_tiny

ROWS = np.ascontiguousarray(pictures(8, seed=3).transpose(0, 2, 3, 1))
LAYERS = {"CONV_2D": 55296 + 147456, "FULLY_CONNECTED": 80}


def scores(artifact: Artifact, batch: Array, options: EngineOptions = EngineOptions()) -> Array:  # noqa: B008
    with engine_of(lambda: open_cpu(artifact, options)) as engine:
        return answer(engine, batch)


def certificate(artifact: Artifact, options: EngineOptions = EngineOptions()) -> Certificate:  # noqa: B008
    return certify_cpu(artifact, options, {artifact.input.name: ROWS[:1]})


def tensor(dtype: str, scale: float, zero: int) -> Tensor:
    return Tensor(0, "x", dtype, (64,), (64,), (scale,), (zero,))


@pytest.mark.parametrize(("dtype", "zero"), [("uint8", 128), ("int8", -1), ("int16", 0)])
@pytest.mark.parametrize("scale", [0.05, 1 / 128])
def test_codes_are_those_of_quantise_linear_and_back(dtype: str, zero: int, scale: float) -> None:
    values = np.linspace(-9, 9, 64, dtype=np.float32)
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])
    back = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])
    feeds = {"x": values, "s": np.float32(scale), "z": np.dtype(dtype).type(zero)}
    (codes,) = ReferenceEvaluator(node, opsets={"": 21}).run(None, feeds)
    (reals,) = ReferenceEvaluator(back, opsets={"": 21}).run(None, {**feeds, "q": codes})
    got = tensor(dtype, scale, zero)
    assert np.array_equal(got.codes(values), codes)
    assert np.array_equal(got.reals(codes), reals)


@pytest.mark.parametrize("name", ["uint8", "int8"])
@pytest.mark.parametrize("optimisation", RESOLVERS)
def test_integers_answer_as_the_float_network_up_to_their_steps(tmp_path: Path, name: str, optimisation: str) -> None:
    artifact = tflite_artifact(tmp_path, name)
    wanted = reference(write_tiny(tmp_path, Shape(nhwc=True)), {"x": ROWS})
    options = EngineOptions(optimisation=optimisation)
    with closing(open_cpu(artifact, options)) as engine:
        (step,) = engine.facts()["output"]["scale"]
        got = answer(engine, ROWS)
    assert np.abs(got - wanted).max() <= 4 * step
    assert not np.array_equal(got, wanted)
    codes = got / np.float32(step)
    assert np.allclose(codes, np.rint(codes), atol=1e-3)


def test_edges_of_integers_are_in_the_facts(tmp_path: Path) -> None:
    with engine_of(lambda: open_cpu(tflite_artifact(tmp_path, "uint8"), EngineOptions())) as engine:
        facts = engine.facts()
    assert facts["input"]["dtype"] == "uint8"
    assert len(facts["input"]["scale"]) == len(facts["input"]["zero_point"]) == 1
    assert facts["output"]["dtype"] == "uint8"


def test_levels_are_the_codes_of_a_uint8_input(tmp_path: Path) -> None:
    """The same codes, once as the sidecar's levels and once rounded from the real numbers that they stand for."""
    levels = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    as_levels = tflite_artifact(tmp_path, "uint8", {"preprocessing": LEVELS})
    with closing(open_cpu(as_levels, EngineOptions())) as engine:
        edge = engine.facts()["input"]
        got = answer(engine, levels)
    reals = (levels.astype(np.float32) - edge["zero_point"][0]) * np.float32(edge["scale"][0])
    assert np.array_equal(got, scores(tflite_artifact(tmp_path, "uint8", {"preprocessing": UNIT}), reals))


@pytest.mark.parametrize(
    ("optimisation", "provider"), [("all", "XNNPACK"), ("basic", "LiteRT"), ("disabled", "LiteRT's reference")]
)
def test_optimisation_chooses_whose_kernels_run(tmp_path: Path, optimisation: str, provider: str) -> None:
    options = EngineOptions(optimisation=optimisation)
    artifact = tflite_artifact(tmp_path, "int8")
    with engine_of(lambda: open_cpu(artifact, options)) as engine:
        assert engine.facts()["provider"] == provider
    found = certificate(artifact, options)
    assert found.evidence["provider"] == provider
    owner = "XNNPACK" if optimisation == "all" else "LiteRT"
    assert {proof.kernel for proof in found.layers} == {f"{owner} CONV_2D", f"{owner} FULLY_CONNECTED"}


def test_other_optimisations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="has no option engine_optimisation = 'extended'; choose one of all, basic"):
        open_cpu(tflite_artifact(tmp_path, "int8"), EngineOptions(optimisation="extended"))


def test_integer_kernels_cannot_be_switched_off(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="LiteRT has no option integer_kernels"):
        open_cpu(tflite_artifact(tmp_path, "int8"), EngineOptions(integer_kernels=False))


@pytest.mark.parametrize("name", ["uint8", "int8"])
def test_file_of_integers_is_certified_whole(tmp_path: Path, name: str) -> None:
    found = certificate(tflite_artifact(tmp_path, name))
    assert found.integer_fraction == 1.0
    assert all(proof.input_types == ("int8", "int8") and proof.reason is None for proof in found.layers)
    counted = {operator: sum(x.macs for x in found.layers if x.operator == operator) for operator in LAYERS}
    assert counted == LAYERS
    # An input of uint8 becomes int8 first, and the output uint8 again.
    assert ("QUANTIZE(uint8)" in found.other_kernels) == (name == "uint8")


def test_float_file_has_no_integers_and_says_why(tmp_path: Path) -> None:
    found = certificate(tflite_artifact(tmp_path, "rows"))
    assert found.integer_fraction == 0.0
    assert found.total_macs == sum(LAYERS.values())
    assert {proof.reason for proof in found.layers} == {"the file does not quantise its activation and weight"}


def test_weights_alone_are_not_taken_for_integers(tmp_path: Path) -> None:
    found = certificate(tflite_artifact(tmp_path, "weights-alone"))
    assert found.integer_macs == 0
    by_types = {proof.input_types: proof for proof in found.layers}
    assert by_types["float", "int8"].macs == 128 * CLASSES
    assert str(by_types["float", "int8"].reason).startswith("weight-only int8: whether its kernel rounds")
    assert by_types["float", "float"].macs == 3 * 128
