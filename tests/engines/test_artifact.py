"""Artifacts, tensor specifications and sidecars."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.artifact import (
    SIDECAR_KEYS,
    Artifact,
    ArtifactError,
    TensorSpec,
    read_sidecar,
    sha256_of,
    sidecar_path,
    write_sidecar,
)
from engines.onnx_file import artifact_from_onnx
from tests.engines.tiny import CLASSES, tiny_artifact, write_tiny

# A loaded machine is slow, not wrong; and a test that fails must fail again.
unhurried = settings(deadline=None, derandomize=True)


def artifact(shape: tuple[int | None, ...], output: tuple[int | None, ...] = (None, 10)) -> Artifact:
    return Artifact(
        path=Path("m.onnx"),
        format="onnx",
        sha256="",
        input=TensorSpec("x", "float32", shape),
        output=TensorSpec("y", "float32", output),
        output_kind="logits",
        quantised=False,
    )


def with_sidecar(folder: Path, content: object) -> Path:
    path = write_tiny(folder)
    sidecar_path(path).write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_spec_accepts_any_length_where_it_has_none() -> None:
    spec = TensorSpec("x", "float32", (None, 3, 8, 8))
    assert spec.accepts((1, 3, 8, 8))
    assert spec.accepts([7, 3, 8, 8])


@pytest.mark.parametrize("shape", [(1, 3, 8), (1, 3, 8, 8, 1), (1, 4, 8, 8), (1, 8, 8, 3), ()])
def test_spec_refuses_another_rank_or_length(shape: tuple[int, ...]) -> None:
    assert not TensorSpec("x", "float32", (None, 3, 8, 8)).accepts(shape)


@unhurried
@given(st.lists(st.integers(0, 9), max_size=5))
def test_spec_without_free_lengths_accepts_only_its_own_shape(shape: list[int]) -> None:
    spec = TensorSpec("x", "float32", (1, 2, 3))
    assert spec.accepts(shape) == (shape == [1, 2, 3])


def test_shape_is_written_as_a_person_writes_it() -> None:
    assert TensorSpec("x", "float32", (None, 3, 224, 224)).shape_text == "[N, 3, 224, 224]"


def test_layout_size_and_batch_come_from_the_input() -> None:
    planes, rows = artifact((None, 3, 8, 9)), artifact((4, 8, 9, 3))
    assert (planes.layout, planes.size, planes.fixed_batch) == ("nchw", (8, 9), None)
    assert (rows.layout, rows.size, rows.fixed_batch) == ("nhwc", (8, 9), 4)


def test_free_height_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"the input \[N, 3, N, 9\] has no fixed height and width"):
        _ = artifact((None, 3, None, 9)).size


def test_free_class_count_is_refused() -> None:
    assert artifact((None, 3, 8, 8)).class_count == 10
    with pytest.raises(ArtifactError, match=r"the output \[N, N\] has no fixed class count"):
        _ = artifact((None, 3, 8, 8), (None, None)).class_count


def test_hash_is_sha256_over_the_files_in_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"one" * 1_000_000)
    second.write_bytes(b"two")
    expected = hashlib.sha256(first.read_bytes() + second.read_bytes()).hexdigest()
    assert sha256_of(first, second) == expected
    assert sha256_of(second, first) != expected


def test_sidecar_lies_beside_the_file() -> None:
    assert sidecar_path(Path("models/m.onnx")) == Path("models/m.onnx.json")


def test_missing_sidecar_declares_nothing(tmp_path: Path) -> None:
    assert read_sidecar(tmp_path / "m.onnx") == {}


def test_sidecar_that_was_written_is_read_back(tmp_path: Path) -> None:
    declared = replace(
        tiny_artifact(tmp_path),
        preprocessing=({"stage": "decode", "name": "pillow", "params": {}},),
        classes=tuple(f"class {index}" for index in range(CLASSES)),
        output_kind="probabilities",
        made_by={"tool": "a test"},
    )
    assert write_sidecar(declared) == sidecar_path(declared.path)
    assert artifact_from_onnx(declared.path) == declared


def test_sidecar_leaves_out_what_nobody_declared(tmp_path: Path) -> None:
    written = json.loads(write_sidecar(tiny_artifact(tmp_path)).read_text())
    assert set(written) == {"format", "sha256", "output_kind", "made_by"}
    assert set(written) <= set(SIDECAR_KEYS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"tiny\.onnx\.json is not JSON: .*line 1"),
        ("[1, 2]", "must hold one JSON object; got list"),
        ({"clases": []}, "unknown key 'clases'; did you mean 'classes'"),
        ({"preprocesing": []}, "unknown key 'preprocesing'; did you mean 'preprocessing'"),
        ({"zzz": 1}, "unknown key 'zzz'.*Known: format, sha256, preprocessing, output_kind, classes, made_by"),
        ({"output_kind": "logit"}, "output_kind must be 'logits' or 'probabilities'; got \"logit\""),
    ],
    ids=["not json", "list", "near classes", "near preprocessing", "far", "output kind"],
)
def test_unusable_sidecar_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = with_sidecar(tmp_path, content)
    with pytest.raises(ArtifactError, match=message):
        artifact_from_onnx(path)


def test_sidecar_of_other_bytes_is_refused_with_the_advice(tmp_path: Path) -> None:
    path = with_sidecar(tmp_path, {"sha256": "0" * 64})
    got = sha256_of(path)[:12]
    message = rf"SHA-256 {got}\.\.\., declared 000000000000\.\.\.\); export it again or delete the sidecar"
    with pytest.raises(ArtifactError, match=message):
        artifact_from_onnx(path)


def test_sidecar_of_the_same_bytes_is_accepted(tmp_path: Path) -> None:
    path = write_tiny(tmp_path)
    sidecar_path(path).write_text(json.dumps({"sha256": sha256_of(path), "output_kind": "probabilities"}))
    assert artifact_from_onnx(path).output_kind == "probabilities"


def test_class_list_of_another_length_is_refused(tmp_path: Path) -> None:
    path = with_sidecar(tmp_path, {"classes": ["cat", "dog"]})
    with pytest.raises(ArtifactError, match="the sidecar names 2 classes, the output has 10"):
        artifact_from_onnx(path)
