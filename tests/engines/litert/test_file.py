"""Opening a .tflite file: what is read, and that every refusal names the fact and the advice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'qharness[litert]'")

from engines.artifact import ArtifactError, TensorSpec, sha256_of, sidecar_path
from harness.registry import artifact_from_model
from noise.presets import pipeline_from_preset
from tests.engines.litert.files import tflite_artifact, write_tflite
from tests.engines.tiny import CLASSES, SIZE

UNIT: list[dict[str, Any]] = list(pipeline_from_preset("unit", size=SIZE, layout="nhwc").describe())
LEVELS = [step for step in UNIT if step["stage"] != "normalise"]


def test_float_file_is_read(tmp_path: Path) -> None:
    artifact = tflite_artifact(tmp_path, "rows")
    assert artifact.input == TensorSpec("x", "float32", (None, SIZE, SIZE, 3))
    assert artifact.output.shape == (None, CLASSES)
    assert (artifact.format, artifact.layout, artifact.output_kind) == ("tflite", "nhwc", "logits")
    assert not artifact.quantised
    assert artifact.sha256 == sha256_of(artifact.path)


def test_fixed_batch_is_read(tmp_path: Path) -> None:
    assert tflite_artifact(tmp_path, "two-pictures").fixed_batch == 2


@pytest.mark.parametrize("name", ["uint8", "int8", "weights-alone"])
def test_integers_are_recognised(tmp_path: Path, name: str) -> None:
    assert tflite_artifact(tmp_path, name).quantised


def test_output_kind_is_read_from_the_end_of_the_graph(tmp_path: Path) -> None:
    assert tflite_artifact(tmp_path, "softmax").output_kind == "probabilities"


@pytest.mark.parametrize("name", ["uint8", "int8"])
def test_integer_input_takes_real_numbers_and_gives_them_back(tmp_path: Path, name: str) -> None:
    artifact = tflite_artifact(tmp_path, name, {"preprocessing": UNIT})
    assert artifact.input.dtype == "float32"
    assert artifact.output.dtype == "float32"
    assert tflite_artifact(tmp_path, name).input.dtype == "float32"


def test_uint8_input_takes_levels_where_the_sidecar_declares_no_normalisation(tmp_path: Path) -> None:
    assert tflite_artifact(tmp_path, "uint8", {"preprocessing": LEVELS}).input.dtype == "uint8"
    assert tflite_artifact(tmp_path, "int8", {"preprocessing": LEVELS}).input.dtype == "float32"
    assert tflite_artifact(tmp_path, "rows", {"preprocessing": LEVELS}).input.dtype == "float32"


def test_sidecar_is_read(tmp_path: Path) -> None:
    classes = [f"class {number}" for number in range(CLASSES)]
    artifact = tflite_artifact(
        tmp_path, "rows", {"classes": classes, "output_kind": "probabilities", "preprocessing": UNIT}
    )
    assert artifact.classes == tuple(classes)
    assert artifact.output_kind == "probabilities"
    assert artifact.preprocessing == tuple(UNIT)


@pytest.mark.parametrize(
    ("sidecar", "message"),
    [
        ({"classes": ["cat", "dog"]}, "the sidecar names 2 classes, the output has 10"),
        ({"sha256": "0" * 64}, "is not the file that its sidecar tiny.tflite.json describes"),
    ],
)
def test_sidecar_of_another_file_is_refused(tmp_path: Path, sidecar: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        tflite_artifact(tmp_path, "rows", sidecar)


def test_format_in_the_sidecar_says_what_a_file_of_any_name_is(tmp_path: Path) -> None:
    path = write_tflite(tmp_path, "rows").rename(tmp_path / "model.bin")
    sidecar_path(path).write_text('{"format": "tflite"}')
    assert artifact_from_model(path).format == "tflite"


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"there is no model file .*nothing\.tflite"):
        artifact_from_model(tmp_path / "nothing.tflite")


@pytest.mark.parametrize("broken", ["nothing", "text", "half", "another schema"])
def test_broken_file_is_refused(tmp_path: Path, broken: str) -> None:
    path = write_tflite(tmp_path, "rows")
    whole = path.read_bytes()
    contents = {
        "nothing": b"",
        "text": b"hello world" * 100,
        "half": whole[: len(whole) // 2],
        "another schema": whole.replace(b"TFL3", b"TFL9"),
    }
    path.write_bytes(contents[broken])
    with pytest.raises(ArtifactError, match=r"ai-edge-litert [\d.]+ cannot open .*tiny\.tflite: "):
        artifact_from_model(path)


def test_graph_that_ends_in_a_softmax_of_integers_gives_probabilities(tmp_path: Path) -> None:
    """Between a softmax of integers and the output there is a QUANTIZE, which is looked through."""
    assert tflite_artifact(tmp_path, "softmax-uint8").output_kind == "probabilities"
