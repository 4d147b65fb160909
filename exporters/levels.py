"""Levels: a model that takes a picture as the camera gave it, 8-bit levels with interleaved channels.

Normalisation and layout move from the preprocessing into the graph, in front of its first node. An engine on a GPU then
gets a quarter of the bytes, and does that arithmetic itself; any runtime can, for they are operators like others. The
operations and their order are those of `noise.normalise.float32`, so on a CPU not one bit of an answer changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.artifact import Artifact, TensorSpec, sha256_of, write_sidecar
from exporters.base import ExportError

PREFIX = "qharness_levels"


def with_levels(artifact: Artifact, path: Path) -> Artifact:
    """Write the model with an input of uint8 [N, H, W, 3].

    Args:
        artifact: a model with float input that declares its preprocessing.
        path: of the new file, which may be the old one.

    Raises:
        ExportError: it declares no normalisation, or one that the graph cannot do, or takes levels already.
    """
    steps = steps_before_levels(artifact)
    model = onnx.load(str(artifact.path))
    graph, old = model.graph, artifact.input
    levels = TensorSpec(f"{old.name}_levels", "uint8", (old.shape[0], *artifact.size, 3))
    nodes, constants = _nodes(artifact, levels.name)
    for index, node in enumerate(nodes):
        graph.node.insert(index, node)
    graph.initializer.extend(constants)
    place = next(index for index, value in enumerate(graph.input) if value.name == old.name)
    dims = [graph.input[place].type.tensor_type.shape.dim[0].dim_param or levels.shape[0] or "N", *levels.shape[1:]]
    graph.input[place].CopyFrom(helper.make_tensor_value_info(levels.name, TensorProto.UINT8, dims))
    onnx.save(model, str(path))
    made = replace(
        artifact,
        path=path,
        sha256=sha256_of(path),
        input=levels,
        preprocessing=(*steps, {"stage": "layout", "name": "nhwc", "params": {}}),
        made_by={**artifact.made_by, "levels": {"parent_sha256": artifact.sha256, "normalise": _params(artifact)}},
    )
    write_sidecar(made)
    return made


def steps_before_levels(artifact: Artifact) -> tuple[Mapping[str, Any], ...]:
    """The preprocessing that stays outside; of the model that is to be quantised it says whether `with_levels` will do.

    Raises:
        ExportError: as `with_levels`.
    """
    if artifact.input.dtype == "uint8":
        raise ExportError(f"{artifact.path.name} takes levels already")
    steps = artifact.preprocessing or ()
    names = [f"{step['stage']}.{step['name']}" for step in steps]
    if names[-2:] != ["normalise.float32", f"layout.{artifact.layout}"]:
        raise ExportError(
            f"{artifact.path.name}: expected a preprocessing that ends with normalise.float32 and "
            f"layout.{artifact.layout}; got {', '.join(names) or 'none'}. Declare it in the model's sidecar, or "
            f"name it with --preprocess"
        )
    return tuple(steps[:-2])


def _params(artifact: Artifact) -> dict[str, Any]:
    return dict((artifact.preprocessing or ())[-2]["params"])


def _nodes(artifact: Artifact, source: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """From levels to the old input: (x / scale - mean) / std, each rounded to float32, and the order of the axes."""
    params = _params(artifact)
    operations: Sequence[tuple[str, str]] = (("Div", "scale"), ("Sub", "mean"), ("Div", "std"))
    current = f"{PREFIX}_floats"
    nodes = [helper.make_node("Cast", [source], [current], f"{PREFIX}_cast", to=TensorProto.FLOAT)]
    constants = []
    for operator, name in operations:
        constants.append(numpy_helper.from_array(np.array(params[name], np.float32), f"{PREFIX}_{name}"))
        result = f"{PREFIX}_by_{name}"
        nodes.append(helper.make_node(operator, [current, f"{PREFIX}_{name}"], [result], result))
        current = result
    axes = [0, 3, 1, 2] if artifact.layout == "nchw" else [0, 1, 2, 3]
    nodes.append(helper.make_node("Transpose", [current], [artifact.input.name], f"{PREFIX}_layout", perm=axes))
    return nodes, constants
