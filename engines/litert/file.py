"""Open a .tflite file as an `Artifact`: read the graph, refuse what the harness cannot feed or score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engines.artifact import Artifact, ArtifactError, TensorSpec, checked, declared, only, sha256_of
from engines.base import EngineError
from engines.litert.graph import Graph, Tensor, interpreter_from_file

# What may stand between a softmax and the output without changing its meaning.
_TRANSPARENT = {"CAST", "DEQUANTIZE", "QUANTIZE", "RESHAPE", "SQUEEZE"}

_STORED = ("float32", "uint8", "int8", "int16")


def artifact_from_tflite(path: Path, trust: bool = False) -> Artifact:
    """The artifact of a .tflite image classifier, with what its sidecar declares; see `engines.artifact.ReadModel`.

    An integer input takes real numbers, as every declared preprocessing with a normalise step makes them, and the
    engine rounds them to the file's codes. Where the sidecar declares none, a uint8 input takes levels as its codes.
    Outputs are real numbers.

    Raises:
        ArtifactError: no such file; not a .tflite file that LiteRT can open; not one picture in and one row of class
            scores out; a sidecar that belongs to other bytes.
    """
    if not path.is_file():
        raise ArtifactError(f"there is no model file {path}")
    try:
        graph = Graph(interpreter_from_file(path))
    except EngineError as error:
        raise ArtifactError(str(error)) from error
    digest = sha256_of(path)
    sidecar = declared(path, digest, trust)
    classes, steps = sidecar.get("classes"), sidecar.get("preprocessing")
    inputs = [_spec(path, tensor, _input_dtype(tensor, steps)) for tensor in graph.inputs]
    outputs = [_spec(path, tensor, "float32") for tensor in graph.outputs]
    return checked(
        Artifact(
            path=path,
            format="tflite",
            sha256=digest,
            input=only(path, "input", inputs, 4),
            output=only(path, "output", outputs, 2),
            output_kind=sidecar.get("output_kind", _output_kind(graph)),
            quantised=any(tensor.is_quantised for tensor in graph.tensors.values()),
            preprocessing=tuple(steps) if steps else None,
            classes=None if classes is None else tuple(classes),
            made_by=sidecar.get("made_by", {}),
            as_it_is=True,
        )
    )


def _input_dtype(tensor: Tensor, steps: list[dict[str, Any]] | None) -> str:
    """What the harness feeds: levels, where the declaration ends in them or the file has no scale for others."""
    levels = steps is not None and all(step.get("stage") != "normalise" for step in steps)
    return "uint8" if tensor.dtype == "uint8" and (levels or not tensor.is_quantised) else "float32"


def _spec(path: Path, tensor: Tensor, dtype: str) -> TensorSpec:
    """What the harness sees of an input or output.

    Raises:
        ArtifactError: it stores what cannot be turned into that.
    """
    plain = tensor.dtype == dtype
    if tensor.dtype not in _STORED or not (plain or (tensor.is_quantised and len(tensor.scales) == 1)):
        raise ArtifactError(
            f"{path}: expected {tensor.name!r} to hold float32, or uint8, int8 or int16 with one scale; got "
            f"{tensor.dtype} with {len(tensor.scales)} scales"
        )
    return TensorSpec(tensor.name, dtype, tensor.signature)


def _output_kind(graph: Graph) -> str:
    """ "probabilities" when the graph ends in a softmax, else "logits"."""
    operator = graph.makers.get(graph.outputs[0].index) if graph.outputs else None
    while operator is not None and operator.name in _TRANSPARENT:
        operator = graph.makers.get(operator.inputs[0])
    return "probabilities" if operator is not None and operator.name == "SOFTMAX" else "logits"
