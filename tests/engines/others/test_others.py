"""Files that other tools quantised: the tiny network by Brevitas, torchao, ModelOpt and AIMET, beside their scripts.

Each is opened, runs in both versions on two runtimes, and answers as ONNX's own evaluator does.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx.version_converter
import pytest
from onnx.reference import ReferenceEvaluator

from engines.base import EngineOptions
from engines.macs import layers_from_onnx
from engines.onnx_file import artifact_from_onnx
from engines.saturation import saturating_layers
from engines.trt.lint import ERROR, findings_from_onnx
from harness.registry import engine_certifier, engine_opener
from tests.engines.conformance import Array, answer, engine_of
from tests.engines.test_ort_certificate import on_x86
from tests.engines.tiny import pictures, reference, tiny, write_tiny

FOLDER = Path(__file__).parent
BATCH = pictures(16, seed=100)
CONV1, CONV2, GEMM = 55296, 147456, 80
ENGINES = ("ort-cpu", "openvino")


class Expected(NamedTuple):
    """What is known of a file.

    Args:
        types: of activation and weight of each layer.
        on_integers: engine -> the multiply-accumulates that it runs on integer kernels.
        rounding: by how much its scores may differ from those of the float network, which go up to 6.8.
        errors: the rules for which TensorRT would refuse it.
        saturates: whether weights are large enough to saturate on kernels without VNNI.
    """

    types: tuple[tuple[str, str], ...]
    on_integers: dict[str, int]
    rounding: float
    errors: set[str]
    saturates: bool


FILES = {
    "brevitas": Expected(
        (("int8", "int8"), ("uint8", "int8"), ("uint8", "int8")),
        {"ort-cpu": CONV1 + CONV2, "openvino": GEMM},
        0.15,
        {"signed", "clip"},
        True,
    ),
    "brevitas-4-bits": Expected(
        (("int8", "int8"), ("uint8", "int8"), ("uint8", "int8")),
        {"ort-cpu": CONV1 + CONV2, "openvino": GEMM},
        0.7,
        {"signed", "clip"},
        False,
    ),
    "torchao": Expected(
        (("uint8", "int8"),) * 3, {"ort-cpu": CONV1, "openvino": CONV1 + CONV2 + GEMM}, 0.15, {"signed"}, True
    ),
    "modelopt": Expected(
        (("int8", "int8"), ("float", "float"), ("float", "float")),
        {"ort-cpu": 0, "openvino": CONV1},
        0.05,
        set(),
        False,
    ),
    "modelopt-torch": Expected(
        (("int8", "int8"),) * 3, {"ort-cpu": 0, "openvino": CONV1 + CONV2 + GEMM}, 0.15, set(), False
    ),
    "aimet": Expected(
        (("uint8", "int8"),) * 3,
        dict.fromkeys(ENGINES, CONV1 + CONV2 + GEMM),
        0.15,
        {"signed"},
        True,
    ),
}


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.onnx"


def evaluated(name: str) -> Array:
    """The scores by ONNX's own evaluator, which knows Q/DQ from opset 19 on."""
    newer = onnx.version_converter.convert_version(onnx.load(path_of(name)), 21)
    return np.asarray(ReferenceEvaluator(newer).run(None, {"x": BATCH})[0], np.float32)


def scores(name: str, engine: str, options: EngineOptions) -> Array:
    artifact = artifact_from_onnx(path_of(name))
    with engine_of(lambda: engine_opener(engine)(artifact, options)) as running:
        return answer(running, BATCH)


def test_every_file_is_expected() -> None:
    assert {path.stem for path in FOLDER.glob("*.onnx")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_file_is_opened_as_quantised_in_two_versions(name: str) -> None:
    artifact = artifact_from_onnx(path_of(name))
    assert artifact.quantised
    assert not artifact.as_it_is
    assert artifact.input.shape == (None, 3, 32, 32)


@pytest.mark.parametrize("name", FILES)
def test_file_is_the_tiny_network_up_to_rounding(name: str, tmp_path: Path) -> None:
    wanted = reference(write_tiny(tmp_path), {"x": BATCH})
    assert 0 < np.abs(evaluated(name) - wanted).max() <= FILES[name].rounding


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", FILES)
def test_simulation_answers_as_the_evaluator_does(name: str, engine: str) -> None:
    got = scores(name, engine, EngineOptions(integer_kernels=False))
    assert np.allclose(got, evaluated(name), rtol=0, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", FILES)
def test_integer_kernels_answer_as_the_evaluator_does_up_to_a_step(name: str, engine: str) -> None:
    got, wanted = scores(name, engine, EngineOptions()), evaluated(name)
    assert np.abs(got - wanted).max() <= 0.05
    assert np.array_equal(got.argmax(axis=1), wanted.argmax(axis=1))


@pytest.mark.parametrize("name", FILES)
def test_types_of_layers_are_read(name: str) -> None:
    layers = layers_from_onnx(path_of(name))
    assert [layer.macs for layer in layers] == [CONV1, CONV2, GEMM]
    assert tuple((layer.activation, layer.weight) for layer in layers) == FILES[name].types


@on_x86
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", FILES)
def test_certificate_counts_what_ran_on_integers(name: str, engine: str) -> None:
    artifact = artifact_from_onnx(path_of(name))
    feeds = {"x": BATCH[:1]}
    found = engine_certifier(engine)(artifact, EngineOptions(), feeds)
    assert (found.integer_macs, found.total_macs) == (FILES[name].on_integers[engine], CONV1 + CONV2 + GEMM)
    assert all(proof.reason for proof in found.fallbacks)
    assert engine_certifier(engine)(artifact, EngineOptions(integer_kernels=False), feeds).integer_macs == 0


@pytest.mark.parametrize("name", FILES)
def test_linter_says_what_tensorrt_would_refuse(name: str) -> None:
    findings = findings_from_onnx(path_of(name))
    assert {each.rule for each in findings if each.severity == ERROR} == FILES[name].errors


@pytest.mark.parametrize("name", FILES)
def test_weights_that_saturate_are_found_wherever_they_are_stored(name: str) -> None:
    """As integers, behind a Clip (Brevitas), or as floats behind a QuantizeLinear (AIMET)."""
    assert bool(saturating_layers(path_of(name))) == FILES[name].saturates


def test_tiny_network_is_small_beside_its_rounding() -> None:
    """The bounds above mean something: scores go far beyond them."""
    (floats,) = ReferenceEvaluator(tiny()).run(None, {"x": BATCH})
    assert np.abs(floats).max() > 5
