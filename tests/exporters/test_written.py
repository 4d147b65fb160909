"""A model and its sidecar: together, and whole where the writing is stopped."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from engines.artifact import ArtifactError, sidecar_path
from engines.onnx_file import artifact_from_onnx
from exporters.written import written_model
from tests.engines.tiny import CLASSES, Shape, tiny, tiny_artifact

NAMES = tuple(f"class{index}" for index in range(CLASSES))


def test_what_is_returned_is_what_is_read_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    origin = replace(tiny_artifact(tmp_path), classes=NAMES)
    path = tmp_path / "new" / "model.onnx"
    path.parent.mkdir()
    made = written_model(tiny(Shape(batch_norm=True)), origin, {"tool": "a test"}, path)
    assert made == artifact_from_onnx(path)
    assert made.classes == NAMES
    assert made.made_by == {"tool": "a test"}
    assert sorted(path.parent.iterdir()) == [path, sidecar_path(path)]


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("renamed", [0, 1])
def test_writing_that_is_stopped_leaves_no_model_without_its_sidecar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, renamed: int
) -> None:
    origin = replace(tiny_artifact(tmp_path), classes=NAMES)
    path = tmp_path / "model.new.onnx"
    if there:
        written_model(onnx.load(str(origin.path)), origin, {"tool": "the first"}, path)
    done: list[Path] = []
    rename = os.replace

    def stopping(source: Path, target: Path) -> None:
        if len(done) == renamed:
            raise KeyboardInterrupt
        done.append(target)
        rename(source, target)

    monkeypatch.setattr(os, "replace", stopping)
    with pytest.raises(KeyboardInterrupt):
        written_model(tiny(Shape(batch_norm=True)), origin, {"tool": "the second"}, path)
    if not there:
        assert not path.exists()
    elif renamed:
        with pytest.raises(ArtifactError, match="sidecar"):
            artifact_from_onnx(path)
    else:
        assert artifact_from_onnx(path).made_by == {"tool": "the first"}
