"""Operators: the same network with one operator computed as another runtime does it, as a file of its own.

Frameworks and accelerators differ in how a pooling window meets the border, in how a plane is enlarged, and in whether
the mean is subtracted before the network or in it (SysNoise, arXiv 2307.00280). A variant is made by rewriting the ONNX
file; its sidecar says from which file, by which variant and at which nodes. Weights are not trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from engines.artifact import Artifact
from exporters.base import ExportError
from exporters.written import written_model

Pipeline = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Rewritten:
    """What a variant did.

    Args:
        nodes: that are another operation now, by name; none where the model has nothing of the kind.
        preprocessing: what the new file declares.
    """

    nodes: tuple[str, ...]
    preprocessing: Pipeline | None


Rewrite = Callable[[onnx.ModelProto, Pipeline | None], Rewritten]


def write_variant(artifact: Artifact, name: str, rewrite: Rewrite, path: Path) -> Artifact:
    """Write ``path``: the model as a variant computes it, and its sidecar.

    Args:
        artifact: a model, quantised or not.
        name: of the variant, for the sidecar.
        rewrite: changes the loaded model in place.

    Raises:
        ExportError: the model has nothing that the variant changes, or no longer fits together.
    """
    model = onnx.load(str(artifact.path))
    done = rewrite(model, artifact.preprocessing)
    if not done.nodes:
        raise ExportError(f"{artifact.path.name} has nothing that {name} would change; leave that variant out")
    try:
        del model.graph.value_info[:]  # shapes may have changed
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"{artifact.path.name} does not fit together under {name}, because a later layer insists on a size: {error}"
        ) from error
    made_by = {
        **artifact.made_by,
        "operator_noise": name,
        "nodes": list(done.nodes),
        "parent": artifact.path.name,
        "parent_sha256": artifact.sha256,
    }
    return written_model(model, replace(artifact, preprocessing=done.preprocessing), made_by, path)


def ceil_mode(model: onnx.ModelProto, preprocessing: Pipeline | None) -> Rewritten:
    """``ceil_mode`` of MaxPool and AveragePool turned over: the last window may reach over the border, or no longer.

    Of a plane whose size fits the windows, or one that is padded by ``auto_pad``, nothing changes, and the node is left
    as it was; of others the planes behind grow or shrink by one.
    """
    before = _shapes(model)
    changed = []
    for node in _of(model, "MaxPool", "AveragePool"):
        old = int(_get(node, "ceil_mode", 0))
        _set(node, "ceil_mode", 1 - old)
        after = _shapes(model)
        shape = after.get(node.output[0], ("",) * 3)
        if shape == before.get(node.output[0]) and all(isinstance(side, int) for side in shape[2:]):
            _set(node, "ceil_mode", old)
        else:
            changed.append(node)
            before = after
    return Rewritten(_names(changed), preprocessing)


def include_padding(model: onnx.ModelProto, preprocessing: Pipeline | None) -> Rewritten:
    """``count_include_pad`` of padded AveragePools turned over: zeros of the padding count in a mean, or no longer."""
    same = (b"SAME_UPPER", b"SAME_LOWER")
    nodes = [
        node
        for node in _of(model, "AveragePool")
        if any(_get(node, "pads", [])) or _get(node, "auto_pad", b"NOTSET") in same
    ]
    for node in nodes:
        _set(node, "count_include_pad", 1 - int(_get(node, "count_include_pad", 0)))
    return Rewritten(_names(nodes), preprocessing)


def upsampling(model: onnx.ModelProto, preprocessing: Pipeline | None) -> Rewritten:
    """``mode`` of Resize and Upsample: nearest becomes linear, linear and cubic become nearest.

    Each with the coordinates that runtimes have for the mode, for another rounding of them would be a second
    difference. Linear is ``half_pixel``, PyTorch's ``interpolate(mode="bilinear")``, where the nearest was
    ``asymmetric``, as PyTorch writes it; other coordinates stay. Nearest is ``asymmetric`` and ``floor``, PyTorch's
    ``interpolate(mode="nearest")``. Nodes from before opset 11 have no choice: they are ``asymmetric`` in both modes.
    """
    nodes = _of(model, "Resize", "Upsample")
    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    for node in nodes:
        becomes_linear = _get(node, "mode", b"nearest") == b"nearest"
        _set(node, "mode", "linear" if becomes_linear else "nearest")
        if node.op_type == "Upsample" or opset < 11:
            continue
        if not becomes_linear:
            _set(node, "coordinate_transformation_mode", "asymmetric")
            _set(node, "nearest_mode", "floor")
            _remove(node, "antialias", "exclude_outside", "cubic_coeff_a")
        elif _get(node, "coordinate_transformation_mode", b"half_pixel") in (b"asymmetric", b"tf_half_pixel_for_nn"):
            _set(node, "coordinate_transformation_mode", "half_pixel")
    return Rewritten(_names(nodes), preprocessing)


def folded_mean(model: onnx.ModelProto, preprocessing: Pipeline | None) -> Rewritten:
    """Mean, deviation and scale of the declared normalisation in the first convolution, which is fed levels 0 to 255.

    ``W' = W / (scale * std)``, ``b' = b - sum(W * mean / std)``: exact but for rounding, except at the border, where
    the padding's zeros are black now and were the mean before. That is what converters do which fold.

    Raises:
        ExportError: no normalisation is declared, or no single convolution reads the input.
    """
    step = next((each for each in preprocessing or () if each["stage"] == "normalise"), None)
    if preprocessing is None or step is None:
        raise ExportError("folding needs the normalisation that the model's sidecar declares; this one declares none")
    graph = model.graph
    constants = {each.name: each for each in graph.initializer}
    source = next(each.name for each in graph.input if each.name not in constants)
    readers = [node for node in graph.node if source in node.input]
    if len(readers) != 1 or readers[0].op_type != "Conv":
        found = ", ".join(node.op_type for node in readers)
        raise ExportError(f"folding needs one Conv with constant weights that reads the input; got {found}")
    conv = readers[0]
    old = [name for name in conv.input[1:] if name]  # an optional input that is left out may be named ""
    for name in old:
        if name not in constants:
            raise ExportError(
                f"folding needs weights and bias that are initializers; {name!r} of {_names(readers)[0]} is none. "
                f"Constant nodes become initializers by ONNX Runtime's or onnxsim's basic optimisation"
            )
    params = step["params"]
    mean, std = (np.array(params[key], np.float64) for key in ("mean", "std"))
    weight = numpy_helper.to_array(constants[conv.input[1]]).astype(np.float64)
    shift = -(weight * (mean / std)[None, :, None, None]).sum(axis=(1, 2, 3))
    bias = numpy_helper.to_array(constants[old[1]]) if len(old) > 1 else np.zeros(len(weight))
    folded = {
        f"{conv.output[0]}_weight_of_levels": weight / (params["scale"] * std)[None, :, None, None],
        f"{conv.output[0]}_bias_of_levels": bias + shift,
    }
    for name, values in folded.items():
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    del conv.input[1:]
    conv.input.extend(folded)
    used = {name for node in graph.node for name in node.input}
    for name in set(old) - used:
        graph.initializer.remove(constants[name])
    levels = {**step, "name": "float32", "params": {"scale": 1.0, "mean": [0.0] * 3, "std": [1.0] * 3}}
    return Rewritten(_names([conv]), tuple(levels if each is step else each for each in preprocessing))


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int | str, ...]]:
    """Tensor -> its shape, as far as it can be inferred from the inputs alone."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(bare).graph.value_info
    return {
        each.name: tuple(side.dim_value if side.HasField("dim_value") else side.dim_param for side in sides)
        for each in inferred
        if (sides := each.type.tensor_type.shape.dim)
    }


def _of(model: onnx.ModelProto, *operators: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type in operators]


def _names(nodes: Sequence[onnx.NodeProto]) -> tuple[str, ...]:
    return tuple(node.name or node.output[0] for node in nodes)


def _get(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = next((each for each in node.attribute if each.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def _set(node: onnx.NodeProto, name: str, value: Any) -> None:
    _remove(node, name)
    node.attribute.append(helper.make_attribute(name, value))


def _remove(node: onnx.NodeProto, *names: str) -> None:
    kept = [each for each in node.attribute if each.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)
