"""The .tflite files of this folder, copied to where a test may change them and lay a sidecar beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from engines.artifact import Artifact, sidecar_path
from harness.registry import artifact_from_model
from tests.engines.tiny import Shape

FOLDER = Path(__file__).parent

# What of the tiny network's shapes was converted.
NAMES = {Shape(): "planes", Shape(nhwc=True): "rows", Shape(batch=2): "two-pictures"}


def write_tflite(folder: Path, name: str, sidecar: dict[str, Any] | None = None) -> Path:
    """A copy of one file, called ``tiny.tflite``."""
    path = folder / "tiny.tflite"
    shutil.copy(FOLDER / f"{name}.tflite", path)
    if sidecar is not None:
        sidecar_path(path).write_text(json.dumps(sidecar))
    return path


def tflite_artifact(folder: Path, name: str, sidecar: dict[str, Any] | None = None) -> Artifact:
    """The same, opened."""
    return artifact_from_model(write_tflite(folder, name, sidecar))


def tiny_tflite(folder: Path, shape: Shape) -> Artifact:
    """The tiny network of `tests.engines.tiny` with the same weights."""
    return tflite_artifact(folder, NAMES[shape])
