"""The certificate of an OpenVINO model: the execution graph of one call, with the primitive that ran each node."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import openvino as ov

from engines.artifact import Artifact
from engines.base import Array, EngineError, EngineOptions
from engines.certificate import Certificate, LayerProof, kernels_by_layer, layer_proof
from engines.cpu import kernel_class
from engines.macs import Layer, layers_from_onnx
from engines.openvino import DEVICE, compiled

# Layer type of the execution graph -> the ONNX operators that it may stand for.
LAYER_TYPES = {
    "Convolution": ("Conv",),
    "Deconvolution": ("ConvTranspose",),
    "FullyConnected": ("Gemm", "MatMul", "MatMulNBits"),
    "MatMul": ("Gemm", "MatMul"),
}
# OpenVINO's element types -> those of certificates.
TYPES = {
    "u8": "uint8",
    "i8": "int8",
    "u4": "uint4",
    "i4": "int4",
    "f32": "float",
    "f16": "float16",
    "bf16": "bfloat16",
}


class Kernel:
    """One node of the execution graph that multiplies."""

    def __init__(self, node: ov.Node) -> None:
        facts = {key: str(value.astype(str)) for key, value in node.get_rt_info().items()}
        self.layer_type = facts["layerType"]
        self.primitive = facts["primitiveType"]
        self.originals = facts.get("originalLayersNames", "").split(",")
        # What the makers of its inputs give, because its own "runtimePrecision" may be that of its weights alone.
        self.types = tuple(_given_type(node.input_value(place)) for place in (0, 1))
        weight = node.input_value(1).get_node()
        shape = [dim.get_length() if dim.is_static else 0 for dim in node.get_output_partial_shape(0)]
        weights = weight.get_output_partial_shape(0)
        channels = shape[1] if self.layer_type == "Convolution" else shape[-1]
        # Every place of the output takes all weights once.
        places = math.prod(shape[1:]) // max(1, channels)
        self.macs = places * math.prod(weights.to_shape()) if weights.is_static else None


def _given_type(output: ov.Output) -> str:
    """The element type of what an output gives, as it ran."""
    precisions = str(output.get_node().get_rt_info()["outputPrecisions"].astype(str)).split(",")
    name: str = precisions[min(output.get_index(), len(precisions) - 1)]
    return TYPES.get(name, name)


def certify_cpu(artifact: Artifact, options: EngineOptions, feeds: Mapping[str, Array]) -> Certificate:
    """Run ``feeds`` once in a profiled model that is otherwise the engine's, and read what ran.

    Raises:
        EngineError: OpenVINO refuses the model or the feeds.
    """
    model = compiled(artifact, options, profiled=True)
    request = model.create_infer_request()
    try:
        request.infer(dict(feeds))
    except RuntimeError as error:
        raise EngineError(f"OpenVINO failed on {artifact.path.name}: {error}") from error
    ran = {info.node_name: info.node_type for info in request.profiling_info if info.status == info.Status.EXECUTED}
    nodes = [node for node in model.get_runtime_model().get_ordered_ops() if node.get_friendly_name() in ran]
    kernels = [Kernel(node) for node in nodes if _layer_type(node) in LAYER_TYPES]
    return Certificate(
        layers=tuple(_proofs(layers_from_onnx(artifact.path), kernels, options)),
        other_kernels=_others(nodes),
        evidence={
            "runtime": f"openvino {ov.__version__}",
            "provider": DEVICE,
            "kernel_class": kernel_class(),
            "integer_kernels_requested": options.integer_kernels,
            "artifact_sha256": artifact.sha256,
        },
    )


def _layer_type(node: ov.Node) -> str:
    return str(node.get_rt_info()["layerType"].astype(str))


def _others(nodes: Sequence[ov.Node]) -> dict[str, int]:
    """Executed kernels without multiply-accumulates, "Type(primitive)" -> count."""
    names = (f"{_layer_type(node)}({node.get_rt_info()['primitiveType'].astype(str)})" for node in nodes)
    return dict(Counter(name for name in names if name.split("(")[0] not in LAYER_TYPES))


def _proofs(layers: Sequence[Layer], kernels: Sequence[Kernel], options: EngineOptions) -> Iterator[LayerProof]:
    """Match each layer of the file with the kernel that names it among its originals, else the next of the same work.

    A layer loses its name where constants are folded into its weights.
    """
    matched = kernels_by_layer(layers, kernels, (_same_name, _same_work, _fits))
    for layer in layers:
        yield _proof(layer, matched.get(layer.name), options)


def _proof(layer: Layer, kernel: Kernel | None, options: EngineOptions) -> LayerProof:
    reason = _reason(layer, kernel, options)
    return layer_proof(layer, kernel.primitive if kernel else None, kernel.types if kernel else (), reason)


def _same_name(kernel: Kernel, layer: Layer) -> bool:
    return layer.name in kernel.originals and _fits(kernel, layer)


def _same_work(kernel: Kernel, layer: Layer) -> bool:
    return kernel.macs == layer.macs and _fits(kernel, layer)


def _fits(kernel: Kernel, layer: Layer) -> bool:
    return layer.operator in LAYER_TYPES[kernel.layer_type]


def _reason(layer: Layer, kernel: Kernel | None, options: EngineOptions) -> str:
    """Why a layer did not run on an integer kernel, most basic cause first."""
    causes = (
        (kernel is None, "no executed kernel names this layer"),
        (not options.integer_kernels, "integer kernels were switched off"),
        ("float" in (layer.activation, layer.weight), "the file does not quantise its activation and weight"),
    )
    return next((text for applies, text in causes if applies), "OpenVINO left it in float")
