"""The certificate of an ONNX Runtime session: its optimised graph and the profile of one call.

The profile names every kernel that ran and the types that it was fed, but leaves out weights that were packed
in advance; the optimised graph has those. Together they prove what ran.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from engines.artifact import Artifact
from engines.base import Array, EngineError, EngineOptions
from engines.certificate import Certificate, LayerProof, kernels_by_layer, layer_proof
from engines.cpu import kernel_class
from engines.macs import Layer, layers_from_onnx, macs_of
from engines.nbits_probe import UNKNOWN, Product, activation_type, product_of
from engines.ort import CPU, OrtFailure, session_options

# Kernel in the optimised graph -> the operator it stands for, and the places of activation and weight among
# its inputs.
KERNELS = {
    "Conv": ("Conv", 0, 1),
    "FusedConv": ("Conv", 0, 1),
    "NhwcFusedConv": ("Conv", 0, 1),
    "QLinearConv": ("Conv", 0, 3),
    "ConvInteger": ("Conv", 0, 1),
    "ConvTranspose": ("ConvTranspose", 0, 1),
    "Gemm": ("Gemm", 0, 1),
    "FusedGemm": ("Gemm", 0, 1),
    "QGemm": ("Gemm", 0, 3),
    "MatMul": ("MatMul", 0, 1),
    "FusedMatMul": ("MatMul", 0, 1),
    "QLinearMatMul": ("MatMul", 0, 3),
    "MatMulInteger": ("MatMul", 0, 1),
    "MatMulIntegerToFloat": ("MatMul", 0, 1),
    "DynamicQuantizeMatMul": ("MatMul", 0, 1),
    "MatMulNBits": ("MatMulNBits", 0, 1),
}
OpenSession = Callable[[bytes, ort.SessionOptions], ort.InferenceSession]

# One product may be a kernel of another name: a MatMul with its sum becomes a Gemm, or, behind a DequantizeLinear of
# 4-bit blocks, a MatMulNBits.
_PRODUCTS = ("Gemm", "MatMul", "MatMulNBits")


@dataclass(frozen=True)
class Kernel:
    """One kernel that ran and multiplies."""

    name: str
    kernel: str
    operator: str
    macs: int
    types: tuple[str, str]


def certify_cpu(artifact: Artifact, options: EngineOptions, feeds: Mapping[str, Array]) -> Certificate:
    """Run ``feeds`` once in a profiled session that is otherwise the engine's, and read what ran.

    Raises:
        EngineError: a node ran on another provider than the CPU's.
    """
    return certificate_on(CPU, _cpu_session, artifact, options, feeds)


def certificate_on(
    provider: str, open_session: OpenSession, artifact: Artifact, options: EngineOptions, feeds: Mapping[str, Array]
) -> Certificate:
    """The certificate of a session on any provider.

    Args:
        provider: ONNX Runtime's name for it.
        open_session: opens a model's bytes there.

    Raises:
        EngineError: a node ran on another provider.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimised, events = _profile(artifact, options, feeds, Path(folder), open_session)
    foreign = {event["args"]["provider"] for event in events} - {provider}
    if foreign:
        raise EngineError(f"asked for {provider}, but nodes ran on {sorted(foreign)}")
    kernels = list(_kernels(optimised, events, options))
    layers = layers_from_onnx(artifact.path)
    return Certificate(
        layers=tuple(_proofs(layers, kernels, options)),
        other_kernels=_others(events),
        evidence={
            "runtime": f"onnxruntime {ort.__version__}",
            "provider": provider,
            "kernel_class": kernel_class(),
            "integer_kernels_requested": options.integer_kernels,
            "artifact_sha256": artifact.sha256,
            **_probed(kernels),
        },
    )


def _cpu_session(model: bytes, settings: ort.SessionOptions) -> ort.InferenceSession:
    return ort.InferenceSession(model, settings, providers=[CPU])


def _profile(
    artifact: Artifact,
    options: EngineOptions,
    feeds: Mapping[str, Array],
    folder: Path,
    open_session: OpenSession = _cpu_session,
) -> tuple[onnx.ModelProto, list[dict[str, Any]]]:
    settings = session_options(options, artifact.session_config)
    settings.enable_profiling = True
    settings.profile_file_prefix = str(folder / "profile")
    settings.optimized_model_filepath = str(folder / "optimised.onnx")
    model = onnx.load(str(artifact.path))
    for node in model.graph.node:
        node.name = node.name or node.output[0]  # without a name a kernel could not be traced to its layer
    try:
        session = open_session(model.SerializeToString(), settings)
        session.run(None, dict(feeds))
    except OrtFailure as error:
        raise EngineError(f"ONNX Runtime {ort.__version__} cannot run {artifact.path}: {error}") from error
    events = json.loads(Path(session.end_profiling()).read_text())
    ran = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    return onnx.load(str(folder / "optimised.onnx"), load_external_data=False), ran


def _kernels(
    optimised: onnx.ModelProto, events: Sequence[Mapping[str, Any]], options: EngineOptions
) -> Iterator[Kernel]:
    """The kernels with multiply-accumulates, in the order in which they ran."""
    probed: dict[Product, str] = {}
    nodes = {node.name: node for node in optimised.graph.node}
    weights = {tensor.name: tensor for tensor in optimised.graph.initializer}
    for event in events:
        node = nodes.get(event["name"].removesuffix("_kernel_time"))
        if node is None or node.op_type not in KERNELS:
            continue
        operator, activation, weight = KERNELS[node.op_type]
        fed = [next(iter(entry.items())) for entry in event["args"]["input_type_shape"]]
        tensor = weights.get(node.input[weight])
        # A weight that is computed at run time (MatMul of two activations) stays in the profile's list.
        weight_type, weight_shape = (
            (onnx.TensorProto.DataType.Name(tensor.data_type).lower(), tuple(tensor.dims))
            if tensor is not None
            else (fed[weight][0], tuple(fed[weight][1]))
        )
        fed_type, activation_shape = fed[activation]
        (_, output_shape) = next(iter(event["args"]["output_type_shape"][0].items()))
        macs = macs_of(operator, [tuple(activation_shape), weight_shape], tuple(output_shape))
        if node.op_type == "DynamicQuantizeMatMul":
            fed_type = "uint8"  # it rounds its activation itself: a DynamicQuantizeLinear was fused into it
        if operator == "MatMulNBits":
            product = product_of(node, rows=math.prod(activation_shape[:-1]))
            if product not in probed:
                probed[product] = activation_type(product, options)
            fed_type, weight_type = probed[product], "int4"
        yield Kernel(node.name, node.op_type, operator, macs, (fed_type, weight_type))


def _probed(kernels: Sequence[Kernel]) -> dict[str, Any]:
    """How many kernels with 4-bit weights were found to compute with activations of each type."""
    counts = Counter(kernel.types[0] for kernel in kernels if kernel.operator == "MatMulNBits")
    return {"int4_activations_probed": dict(counts)} if counts else {}


def _proofs(layers: Sequence[Layer], kernels: Sequence[Kernel], options: EngineOptions) -> Iterator[LayerProof]:
    """Match each layer of the file with the kernel that ran it: by name, else the next of the same work.

    Fusion renames nodes ("conv1" becomes "conv1_token_7", or is called after the ReLU that it swallowed), but
    it keeps the operator and the number of multiply-accumulates; blocked float layouts keep the operator alone.
    """
    matched = kernels_by_layer(layers, kernels, (_same_name, _same_work, _same_operator))
    for layer in layers:
        yield _proof(layer, matched.get(layer.name), options)


def _proof(layer: Layer, kernel: Kernel | None, options: EngineOptions) -> LayerProof:
    reason = _reason(layer, kernel, options)
    return layer_proof(layer, kernel.kernel if kernel else None, kernel.types if kernel else (), reason)


def _same_name(kernel: Kernel, layer: Layer) -> bool:
    return re.sub(r"_token_\d+$", "", kernel.name) == layer.name and _same_work(kernel, layer)


def _same_work(kernel: Kernel, layer: Layer) -> bool:
    return kernel.macs == layer.macs and _same_operator(kernel, layer)


def _same_operator(kernel: Kernel, layer: Layer) -> bool:
    return kernel.operator == layer.operator or {kernel.operator, layer.operator} <= set(_PRODUCTS)


def _reason(layer: Layer, kernel: Kernel | None, options: EngineOptions) -> str:
    """Why a layer did not run on an integer kernel, most basic cause first."""
    causes = (
        (kernel is None, "no executed kernel matches this layer"),
        (
            kernel is not None and kernel.types[0] == UNKNOWN,
            "INT4 is weight-only; whether its kernel rounds the activation to INT8 could not be found out",
        ),
        (
            layer.activation == "float" and "4" in layer.weight,
            "INT4 is weight-only: its kernel computes in float",
        ),
        (not options.integer_kernels, "integer kernels were switched off"),
        (
            layer.activation == "float" and layer.weight != "float",
            f"weight-only {layer.weight}: its activation is float",
        ),
        (layer.activation == "float", "its input is not quantised in the file"),
        (layer.weight == "float", "its weight is not quantised in the file"),
        (
            "4" in layer.weight,
            f"{layer.weight} weights: there is no 4-bit kernel for {layer.operator}",
        ),
        (
            "16" in layer.activation,
            f"{layer.activation} activations: there is no 16-bit integer kernel for {layer.operator}",
        ),
        (
            layer.activation == "int8" and (layer.shared_input or layer.shared_output),
            "signed int8 activations with several readers stay in float on x86; write uint8 activations",
        ),
        (
            layer.output in ("Relu", "Clip"),
            f"a {layer.output} stands between it and its QuantizeLinear; quantise the Conv's output to that range",
        ),
        (
            layer.operator == "Conv" and layer.output == "float",
            "its output is not quantised, so there is no integer convolution to fuse it into",
        ),
        (
            layer.operator == "Gemm" and layer.output == "float",
            "neither its output nor its bias is quantised, so there is no integer Gemm to fuse it into",
        ),
    )
    return next((text for holds, text in causes if holds), "ONNX Runtime chose the float kernel")


def _others(events: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Kernels without multiply-accumulates, with the type of their first input."""
    counts: Counter[str] = Counter()
    for event in events:
        arguments = event["args"]
        if arguments["op_name"] not in KERNELS:
            types = [next(iter(entry)) for entry in arguments["input_type_shape"][:1]]
            counts[f"{arguments['op_name']}({', '.join(types)})"] += 1
    return dict(counts.most_common())
