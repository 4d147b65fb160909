"""INT4: weights in 4 bits, activations in float, for matrix products.

The products run in float, or with activations that the kernel itself rounds to 8 bits (`Int4Options.accuracy_level`).
Convolutions larger than a pixel have no 4-bit kernel in any runtime; what becomes of them is the caller's choice.
"""

from __future__ import annotations

import importlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnx.version_converter

from engines.artifact import Artifact, write_sidecar
from exporters.base import ExportError, Picture
from exporters.blocks import Codes, Grid, Method, Moments, blocks_of, encode
from exporters.folding import folded_model
from exporters.int4_options import METHODS, ORT_CPU, TENSORRT, Int4Options, check_target
from exporters.moments import layer_moments
from exporters.nbits import BLOCKED_IR_VERSION, BLOCKED_OPSET, CONTRIB, blocked_matmul, matmul_nbits, set_opset
from exporters.products import Constants, Left, prune, rewrite
from exporters.written import written_model

_QUANTISED = {"QuantizeLinear", "DequantizeLinear", "MatMulNBits", "DynamicQuantizeLinear"}


@dataclass(frozen=True)
class _Weights:
    """The 4-bit weights of a model, by the names of their MatMul nodes, with what is left."""

    codes: Mapping[str, Codes]
    grids: Mapping[str, Grid]
    depths: Mapping[str, int]
    left: Sequence[Left]
    pictures: int


# From the artifact with INT4 weights, the same with the rest in INT8, written to the path.
QuantiseRest = Callable[[Artifact, Path], Artifact]


def int4_weights(
    artifact: Artifact,
    target: str,
    options: Int4Options,
    path: Path,
    pictures: Iterable[Picture] | None = None,
    quantise_rest: QuantiseRest | None = None,
) -> Artifact:
    """Write ``path``: the model with 4-bit weights for ``target``, and its sidecar.

    Args:
        artifact: the float model; the new file inherits its preprocessing, classes and output kind.
        target: "ort-cpu" writes MatMulNBits; "tensorrt" writes DequantizeLinear in blocks in front of MatMul.
        options: what becomes of the weights.
        path: of the new file.
        pictures: float32 inputs for a method that looks at them, one at a time.
        quantise_rest: for ``rest="int8"``: writes the INT8 file of the model with 4-bit weights that it is given.

    Raises:
        ExportError: the model is quantised already, none of its layers can have 4-bit weights, the target refuses the
            options, or pictures or ``quantise_rest`` are missing; the message says what to change.
    """
    _check(artifact, target, options, pictures, quantise_rest)
    model = folded_model(artifact)
    products, left = rewrite(model.graph, options.pointwise)
    if target == TENSORRT:
        model = _with_blocked_opset(model, artifact)
    weights = _weights(model, products, left, target, options, pictures)
    if not weights.codes:
        raise ExportError(f"{artifact.path.name} has no layer that can have 4-bit weights: {_summary(weights.left)}")
    _replace_products(model, weights, target, options)
    made_by = _made_by(artifact, target, options, weights)
    if options.rest == "float" or quantise_rest is None:
        return written_model(model, artifact, made_by, path)
    with tempfile.TemporaryDirectory() as folder:
        halfway = written_model(model, artifact, made_by, Path(folder) / path.name)
        finished = quantise_rest(halfway, path)
    config = {"session_config": finished.session_config} if finished.session_config else {}
    finished = replace(finished, made_by={**made_by, **config, "int8": dict(finished.made_by)})
    write_sidecar(finished)
    return finished


def _check(
    artifact: Artifact,
    target: str,
    options: Int4Options,
    pictures: Iterable[Picture] | None,
    quantise_rest: QuantiseRest | None,
) -> None:
    """Everything that can be refused before the model is opened by a runtime."""
    check_target(target, options)
    if METHODS[options.method].needs_pictures and pictures is None:
        raise ExportError(f"the method {options.method} looks at calibration pictures; give a folder of them")
    if options.rest == "int8" and quantise_rest is None:
        raise ExportError("rest=int8 needs to be told how the rest becomes INT8; got nothing")
    graph = onnx.load(str(artifact.path), load_external_data=False).graph
    found = sorted({node.op_type for node in graph.node} & _QUANTISED)
    if found:
        raise ExportError(
            f"{artifact.path.name} is quantised already (it holds {', '.join(found)}); give the float model that it "
            f"was made from"
        )


def _with_blocked_opset(model: onnx.ModelProto, artifact: Artifact) -> onnx.ModelProto:
    """The model in the opset that has DequantizeLinear in blocks."""
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if foreign:
        raise ExportError(f"{artifact.path.name} holds operators of {', '.join(foreign)}, which TensorRT does not read")
    kept = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    if kept[0].version >= BLOCKED_OPSET:
        return model
    try:
        lifted: onnx.ModelProto = onnx.version_converter.convert_version(model, BLOCKED_OPSET)
    except Exception as error:  # the converter raises whatever its C++ does
        raise ExportError(
            f"{artifact.path.name} has opset {kept[0].version}; INT4 for TensorRT needs {BLOCKED_OPSET}, and ONNX's "
            f"converter cannot lift it ({error}). Export the model again with opset {BLOCKED_OPSET}"
        ) from error
    lifted.ir_version = max(lifted.ir_version, BLOCKED_IR_VERSION)
    return lifted


def _weights(
    model: onnx.ModelProto,
    products: Sequence[str],
    left: Sequence[Left],
    target: str,
    options: Int4Options,
    pictures: Iterable[Picture] | None,
) -> _Weights:
    """Choose the grid of every block of every product that the target takes."""
    constants = Constants(model.graph)
    nodes = {node.name: node for node in model.graph.node if node.name in set(products)}
    left = list(left)
    if target == TENSORRT:
        for name, node in list(nodes.items()):
            reason = _tensorrt_obstacle(constants.shape(node.input[1]) or (), options.block)
            if reason:
                left.append(Left(name, "MatMul", reason))
                del nodes[name]
    moments: Mapping[str, Moments] = {}
    count = 0
    if nodes and pictures is not None and METHODS[options.method].needs_pictures:
        sources = {name: node.input[0] for name, node in nodes.items()}
        moments, count = layer_moments(model, sources, pictures, options.block)
    method = _method(options.method)
    codes, grids, depths = {}, {}, {}
    for name, node in nodes.items():
        weight = constants.floats(node.input[1])
        if not np.isfinite(weight).all():
            raise ExportError(f"the weight of {name} holds numbers that are not finite; export the model again")
        values = blocks_of(weight, options.block)
        grids[name] = method(values, options.symmetric, moments.get(name))
        codes[name] = encode(values, grids[name])
        depths[name] = len(weight)
    return _Weights(codes, grids, depths, left, count)


def _tensorrt_obstacle(shape: Sequence[int], block: int) -> str | None:
    depth, columns = shape
    if depth % block:
        return f"TensorRT takes whole blocks only: its depth {depth} is not divisible by {block}"
    if columns % 2:
        return f"TensorRT takes an even number of columns only, for 4-bit numbers lie in pairs: got {columns}"
    return None


def _method(name: str) -> Method:
    module, _, function = METHODS[name].target.partition(":")
    return cast(Method, getattr(importlib.import_module(module), function))


def _replace_products(model: onnx.ModelProto, weights: _Weights, target: str, options: Int4Options) -> None:
    """Put the 4-bit weights into the graph. The shapes of all tensors are written down first: ONNX cannot infer them
    through MatMulNBits."""
    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    del graph.value_info[:]
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.name not in weights.codes or node.op_type != "MatMul":
            nodes.append(node)
            continue
        codes, grid = weights.codes[node.name], weights.grids[node.name]
        if target == TENSORRT:
            made, constants = blocked_matmul(node, codes, grid)
        else:
            one, constants = matmul_nbits(node, codes, grid, weights.depths[node.name], options.accuracy_level)
            made = [one]
        nodes.extend(made)
        graph.initializer.extend(constants)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.value_info.extend(inferred)
    prune(graph)
    if target == ORT_CPU:
        set_opset(model, CONTRIB, 1)


def _made_by(artifact: Artifact, target: str, options: Int4Options, weights: _Weights) -> dict[str, Any]:
    return {
        "tool": f"exporters.int4, onnx {onnx.__version__}",
        "parent_sha256": artifact.sha256,
        "target": target,
        "weight": "int4",
        **asdict(options),
        "pictures": weights.pictures,
        "int4_layers": list(weights.codes),
        "other_layers": [asdict(each) for each in weights.left],
    }


def _summary(left: Sequence[Left]) -> str:
    """The reasons with the number of layers of each, the most frequent first."""
    counts = Counter(each.reason for each in left)
    return "; ".join(f"{count} x {reason}" for reason, count in counts.most_common()) or "it has no matrix product"
