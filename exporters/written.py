"""Written: a model of ONNX and its sidecar appear together, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from engines.artifact import Artifact, sidecar_path, write_sidecar
from engines.onnx_file import artifact_from_onnx


def written_model(model: onnx.ModelProto, origin: Artifact, made_by: Mapping[str, Any], path: Path) -> Artifact:
    """Write ``path`` and its sidecar.

    Both are written beside their places and renamed, the sidecar first: whoever stops this leaves no model without its
    preprocessing, and an older model that the sidecar does not describe is refused by its hash.

    Args:
        origin: whose preprocessing, classes and output kind the new file has.
        made_by: of the new file.
    """
    onnx.checker.check_model(model)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft = Path(folder) / path.name
        onnx.save(model, str(draft))
        made = replace(
            artifact_from_onnx(draft),
            preprocessing=origin.preprocessing,
            classes=origin.classes,
            output_kind=origin.output_kind,
            made_by=made_by,
        )
        write_sidecar(made)
        os.replace(sidecar_path(draft), sidecar_path(path))
        os.replace(draft, path)
    return replace(made, path=path)
