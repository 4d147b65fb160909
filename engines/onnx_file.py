"""Open an ONNX file as an `Artifact`: read the graph, refuse what the harness cannot feed or score."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from engines.artifact import Artifact, ArtifactError, TensorSpec, checked, declared, only, sha256_of
from engines.macs import INTEGER_OPERATORS

# Any of these means integers in the file: of activations, of weights, or of weights alone.
_QUANTISED_OPERATORS = {"QuantizeLinear", "DequantizeLinear", "MatMulNBits"}

# What may stand between a Softmax and the graph's output without changing its meaning.
_TRANSPARENT = {"QuantizeLinear", "DequantizeLinear", "Identity", "Flatten", "Reshape", "Squeeze", "Cast"}


def artifact_from_onnx(path: Path, trust: bool = False) -> Artifact:
    """The artifact of an ONNX image classifier, with what its sidecar declares; see `engines.artifact.ReadModel`.

    Raises:
        ArtifactError: no such file; not ONNX; external weights missing or outside the model's folder; not one
            float32 picture in and one row of class scores out; a sidecar that belongs to other bytes.
    """
    if not path.is_file():
        raise ArtifactError(f"there is no model file {path}")
    model = model_from_onnx(path)
    weights = external_files(path, model)
    graph = model.graph
    operators = {node.op_type for node in graph.node}
    constants = {initializer.name for initializer in graph.initializer}
    inputs = [_spec(value) for value in graph.input if value.name not in constants]
    outputs = [_spec(value) for value in graph.output]
    digest = sha256_of(path, *weights)
    sidecar = declared(path, digest, trust)
    classes = sidecar.get("classes")
    artifact = Artifact(
        path=path,
        format="onnx",
        sha256=digest,
        input=only(path, "input", inputs, 4),
        output=only(path, "output", outputs, 2),
        output_kind=sidecar.get("output_kind", _output_kind(graph)),
        quantised=bool(operators & {*_QUANTISED_OPERATORS, *INTEGER_OPERATORS}),
        as_it_is=bool(operators & set(INTEGER_OPERATORS)),
        preprocessing=tuple(sidecar["preprocessing"]) if sidecar.get("preprocessing") else None,
        classes=None if classes is None else tuple(classes),
        made_by=sidecar.get("made_by", {}),
    )
    return checked(artifact)


def model_from_onnx(path: Path) -> onnx.ModelProto:
    """The network without the weights that lie outside its file.

    Raises:
        ArtifactError: it is not ONNX.
    """
    try:
        return onnx.load(str(path), format="protobuf", load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ArtifactError(f"{path} is not an ONNX file: {error}") from error


class InputCodes(NamedTuple):
    """How a network rounds its input to integers.

    Args:
        codes: "uint8" or "int8".
        scale: from one code to the next.
        zero: the code of 0.
    """

    codes: str
    scale: float
    zero: int


def input_codes(artifact: Artifact) -> InputCodes | None:
    """What the first QuantizeLinear behind the input of an ONNX file does; ``None`` where there is none.

    One with a scale per channel or that is no constant of the file, or with codes of other than 8 bits, is none either.
    """
    if artifact.format != "onnx":
        return None
    graph = model_from_onnx(artifact.path).graph
    constants = {each.name: each for each in graph.initializer if each.data_location != onnx.TensorProto.EXTERNAL}
    constants |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    same = {artifact.input.name}
    for node in graph.node:
        if not node.input or node.input[0] not in same:
            continue
        if node.op_type in ("Identity", "Transpose"):
            same.update(node.output)
        elif node.op_type == "QuantizeLinear":
            names = [name for name in node.input[1:] if name]
            if not constants.keys() >= {*names}:
                return None
            scale, zero = (*(onnx.numpy_helper.to_array(constants[name]) for name in names), np.array(0, np.uint8))[:2]
            single = zero.dtype.name in ("uint8", "int8") and zero.size == scale.size == 1
            return InputCodes(zero.dtype.name, float(scale.item()), int(zero.item())) if single else None
    return None


def external_files(path: Path, model: onnx.ModelProto) -> list[Path]:
    """Files with weights outside the model file, each once.

    Raises:
        ArtifactError: one is missing, or leads out of the folder, which is an attack or a mistake.
    """
    folder = path.parent.resolve()
    files: dict[str, Path] = {}
    for tensor in _tensors(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        file = (folder / location).resolve()
        if folder not in file.parents or ".." in Path(location).parts:
            raise ArtifactError(
                f"{path}: the weights of {tensor.name!r} lie at {location!r}, outside the model's folder; "
                f"export the model again with its weights beside it"
            )
        if not file.is_file():
            raise ArtifactError(f"{path}: its weights file {location!r} is missing; put it into {path.parent}")
        files[location] = file
    return [files[location] for location in sorted(files)]


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every constant of a graph, those inside nodes and inner graphs too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type) if tensor.elem_type else None
    shape = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim)
    return TensorSpec(value.name, "unknown" if dtype is None else dtype.name, shape)


def _output_kind(graph: onnx.GraphProto) -> str:
    """ "probabilities" when the graph ends in a Softmax, else "logits"."""
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(graph.output[0].name) if graph.output else None
    while node is not None and node.op_type in _TRANSPARENT and node.input:
        node = makers.get(node.input[0])
    return "probabilities" if node is not None and node.op_type in ("Softmax", "QLinearSoftmax") else "logits"
