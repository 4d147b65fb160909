"""The certificate of a .tflite file: the operators of the interpreter that ran, with the types of what they were fed.

A kernel of LiteRT or XNNPACK computes in the types of its tensors: 8-bit activations and weights are multiplied as
integers. Where the weights alone are integers the tensors do not say it: the kernel may round its activations on the
fly, or turn the weights into floats.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping

from engines.artifact import Artifact
from engines.base import Array, EngineOptions
from engines.certificate import Certificate, LayerProof, layer_proof
from engines.cpu import kernel_class
from engines.litert.engine import Session
from engines.litert.graph import RUNTIME, Graph, Operator, Tensor
from engines.macs import Layer

# Operator -> the places of activation and weight among its inputs.
PLACES = {
    "BATCH_MATMUL": (0, 1),
    "CONV_2D": (0, 1),
    "DEPTHWISE_CONV_2D": (0, 1),
    "FULLY_CONNECTED": (0, 1),
    "TRANSPOSE_CONV": (2, 1),
}


def certify_cpu(artifact: Artifact, options: EngineOptions, feeds: Mapping[str, Array]) -> Certificate:
    """Run ``feeds`` once as the engine does, and read what the interpreter holds afterwards.

    Raises:
        EngineError: LiteRT refuses the file or the feeds.
    """
    session = Session(artifact, options)
    session.answer(feeds[artifact.input.name])
    graph = session.graph()
    return Certificate(
        layers=tuple(_proofs(graph)),
        other_kernels=_others(graph),
        evidence={
            "runtime": RUNTIME,
            "provider": session.provider(graph),
            "kernel_class": kernel_class(),
            "integer_kernels_requested": options.integer_kernels,
            "artifact_sha256": artifact.sha256,
        },
    )


def macs_of(operator: str, activation: Tensor, weight: Tensor, output: Tensor) -> int:
    """Multiply-accumulates of one operator for one picture; the batch is the first axis of activation and output.

    Weights lie as [outputs, height, width, inputs], of depthwise convolutions as [1, height, width, outputs].
    """
    per_picture = math.prod(output.shape[1:])
    if operator == "CONV_2D":
        return per_picture * math.prod(weight.shape[1:])
    if operator == "DEPTHWISE_CONV_2D":
        return per_picture * math.prod(weight.shape[1:3])
    if operator == "TRANSPOSE_CONV":
        return math.prod(activation.shape[1:3]) * math.prod(weight.shape)
    if operator == "FULLY_CONNECTED":
        return per_picture * weight.shape[-1]
    return per_picture * activation.shape[-1]


def _proofs(graph: Graph) -> Iterator[LayerProof]:
    for operator in graph.operators:
        if operator.name in PLACES:
            yield _proof(operator, graph)


def _proof(operator: Operator, graph: Graph) -> LayerProof:
    activation, weight = (graph.tensors[operator.inputs[place]] for place in PLACES[operator.name])
    output = graph.tensors[operator.outputs[0]]
    types = (_type(activation), _type(weight))
    layer = Layer(
        name=output.name.split(";")[0],  # operators have no names; of fused ones the output lists all
        operator=operator.name,
        macs=macs_of(operator.name, activation, weight, output),
        activation=types[0],
        weight=types[1],
        output="quantised" if output.is_quantised else "float",
        shared_input=False,
        shared_output=False,
    )
    owner = "XNNPACK" if graph.is_delegated(weight.index) else "LiteRT"
    return layer_proof(layer, f"{owner} {operator.name}", types, _reason(types))


def _type(tensor: Tensor) -> str:
    return "float" if tensor.dtype == "float32" else tensor.dtype


def _reason(types: tuple[str, str]) -> str:
    """Why a layer is not one of 8-bit integers."""
    activation, weight = types
    if "16" in activation:
        return f"{activation} activations: more than 8 bits"
    if activation == "float" and weight != "float":
        return f"weight-only {weight}: whether its kernel rounds the activation to INT8 is not to be read back"
    return "the file does not quantise its activation and weight"


def _others(graph: Graph) -> dict[str, int]:
    """Operators without multiply-accumulates, with the type of what they read first."""
    counts: Counter[str] = Counter()
    for operator in graph.operators:
        if operator.name not in PLACES:
            first = next(graph.read(operator), None)
            counts[f"{operator.name}({_type(first) if first else ''})"] += 1
    return dict(counts.most_common())
