"""Improve: the improvements that were asked for, applied before calibration or after, and written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from engines.artifact import Artifact
from exporters.base import ExportError
from exporters.folding import folded_model
from exporters.improvements.base import Improvement, Material
from exporters.written import written_model

DONE = "improvements"


def improved_float(
    artifact: Artifact, improvements: Mapping[str, Improvement], material: Material, path: Path
) -> Artifact:
    """Write ``path``: a float model that answers as the old one does, and is kinder to integers.

    Args:
        artifact: the float model; the new file inherits its preprocessing, classes and output kind.
        improvements: name -> one that changes float models, in the order in which they are applied.
        material: what they may look at.

    Raises:
        ExportError: an improvement finds nothing to do, or the model cannot be folded.
    """
    model = folded_model(artifact)
    done = {name: _applied(name, each, model, _copy(model), material) for name, each in improvements.items()}
    made_by = {"tool": f"exporters.improve, onnx {onnx.__version__}", "parent_sha256": artifact.sha256, DONE: done}
    return written_model(model, artifact, made_by, path)


def improved_quantised(
    quantised: Artifact, artifact: Artifact, improvements: Mapping[str, Improvement], material: Material, path: Path
) -> Artifact:
    """Write ``path``: a Q/DQ file with improvements, and with all that were applied in its sidecar.

    Args:
        quantised: the Q/DQ file of ``artifact``.
        artifact: the float model, from `improved_float` where some were applied before.
        improvements: name -> one that changes Q/DQ files, in the order in which they are applied; may be empty.
        material: what they may look at.

    Raises:
        ExportError: an improvement finds nothing to do.
    """
    model, original = onnx.load(str(quantised.path)), folded_model(artifact)
    done = {name: _applied(name, each, model, original, material) for name, each in improvements.items()}
    before = artifact.made_by.get(DONE, {})
    made_by = {
        **quantised.made_by,
        "parent_sha256": artifact.made_by["parent_sha256"] if before else artifact.sha256,
        DONE: {**before, **done},
    }
    return written_model(model, quantised, made_by, path)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def _applied(
    name: str, improvement: Improvement, model: onnx.ModelProto, original: onnx.ModelProto, material: Material
) -> dict[str, Any]:
    done = improvement(model, original, material)
    if not done.changed:
        reasons = list(dict.fromkeys(f"{each.layer}: {each.reason}" for each in done.left))
        found = f"; {'; '.join(reasons[:3])}" if reasons else ""
        raise ExportError(f"{name} finds nothing to do in this model; leave it out{found}")
    content: dict[str, Any] = json.loads(json.dumps(asdict(done)))  # as the sidecar gives it back
    return content
