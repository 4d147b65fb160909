"""The certificate of a plan: which layers are integers, read from the engine inspector's JSON.

Two schemas are read. Up to 10 a tensor has one text, ``"Format/Datatype": "Thirty-two wide channel vectorized row major
Int8 format"``; names and texts are those in the library of 8.6 and in the samples of NVIDIA's engine explorer. 11 has
``"Format"`` and ``"Datatype"`` apart, as Polygraphy 0.53 reads them; no JSON of a real 11 has been seen here.
Which ONNX nodes a layer computes stands in its ``"Metadata"`` from 10 on (``[ONNX Layer: conv1]``, with control
characters between), before that in its ``"Name"`` (``conv1.weight + QuantizeLinear_7 + conv1``).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engines.base import EngineError
from engines.certificate import Certificate, LayerProof, layer_proof
from engines.macs import Layer
from engines.trt.record import PlanRecord

# The last word for a type in a text of 8.6 or 10, or the whole text of 11 -> the type's name in certificates.
TYPES = {
    "int8": "int8",
    "int4": "int4",
    "fp8": "float8",
    "fp4": "float4",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "fp32": "float",
    "float": "float",
    "int32": "int32",
    "int64": "int64",
    "uint8": "uint8",
    "bool": "bool",
}
UNKNOWN = "unknown"

_MULTIPLIES = re.compile(r"conv|gemm|matrix|matmul|fullyconnected", re.IGNORECASE)
# Regions that a second compiler made of many nodes: the types inside cannot be seen from outside. A "fusion" is none of
# them where its kernel is one for products, with a few cheap nodes behind.
_OPAQUE = re.compile(r"myelin|kgen|fusion|foreignnode", re.IGNORECASE)
_FUSION = "fusion"
_REFORMAT = "Reformat"
# The names of NVIDIA's kernels: "..._i8f16_i8i32_f32_..." reads INT8, writes FP16, multiplies by INT8 into INT32.
_MULTIPLIED_BY = re.compile(r"_(?:i8|f16|bf16|f32|e4m3)+_(i8|f16|bf16|tf32|f32|e4m3)(?:i32|f32|f16|bf16)_")
_OPERANDS = {
    "i8": "int8",
    "f16": "float16",
    "bf16": "bfloat16",
    "tf32": "float",
    "f32": "float",
    "e4m3": "float8",
}


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine.

    Args:
        name: in the engine.
        kind: its "LayerType".
        parameters: its "ParameterType", what it was before it had a kernel; "" where there is none.
        tactic: the kernel's name; "" where there is none.
        nodes: the ONNX nodes that it computes.
        inputs, outputs: types of its tensors.
        weight: type of its weights, ``None`` where the inspector does not say.
    """

    name: str
    kind: str
    parameters: str
    tactic: str
    nodes: frozenset[str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weight: str | None

    @property
    def multiplies(self) -> bool:
        """Whether it is a kernel for products."""
        named = self.tactic if self.kind == _FUSION else f"{self.kind} {self.parameters}"
        return bool(_MULTIPLIES.search(named))

    @property
    def opaque(self) -> bool:
        """Whether it is a fused region that hides what it computes with."""
        return not self.multiplies and bool(_OPAQUE.search(self.kind) or self.name.startswith("{ForeignNode"))

    @property
    def types(self) -> tuple[str, str]:
        """Types of activation and weight. A product without weights of its own has them as its second input.

        Where the inspector does not state the weights at all, the name of the kernel does.
        """
        activation = self.inputs[0] if self.inputs else UNKNOWN
        second = self.inputs[1] if len(self.inputs) > 1 and "conv" not in self.kind.lower() else None
        return activation, self.weight or second or self._multiplied_by()

    @property
    def known_by_kernel(self) -> bool:
        """Whether only the kernel's name tells the type of the weights."""
        return self.weight is None and len(self.inputs) < 2 and self._multiplied_by() != UNKNOWN

    def _multiplied_by(self) -> str:
        found = _MULTIPLIED_BY.search(self.tactic)
        return _OPERANDS[found.group(1)] if found else UNKNOWN


def certificate_from_inspector(text: str, record: PlanRecord) -> Certificate:
    """The certificate of a plan.

    Args:
        text: what the inspector gives for an engine, as JSON.
        record: of the plan; its layers are weighted by their multiply-accumulates in the source.

    Raises:
        EngineError: the JSON is not the inspector's, or the plan keeps the names of its layers alone.
    """
    layers = layers_from_inspector(text)
    return Certificate(
        layers=tuple(_proofs(record.layers, layers)),
        other_kernels=_others(layers),
        evidence={
            "runtime": f"tensorrt {record.built_on.tensorrt}",
            "provider": record.built_on.device,
            "kernel_class": f"compute capability {record.built_on.compute_capability}",
            "integer_kernels_requested": bool(record.integers),
            "artifact_sha256": record.sha256,
            "precision": record.options.precision,
            "reformats": sum(layer.kind == _REFORMAT for layer in layers),
            "weights_known_by_kernel_name": sum(layer.multiplies and layer.known_by_kernel for layer in layers),
            "opaque_regions": [layer.name for layer in layers if layer.opaque],
        },
    )


def layers_from_inspector(text: str) -> tuple[EngineLayer, ...]:
    """The layers of an engine, in either schema.

    Raises:
        EngineError: the text is not the inspector's JSON, or holds no details.
    """
    try:
        entries = json.loads(text)["Layers"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise EngineError(f"expected the engine inspector's JSON with its Layers; got {text[:80]!r}") from error
    if any(not isinstance(entry, dict) for entry in entries):
        raise EngineError(
            "the plan keeps the names of its layers alone, so no type can be proven; build it with qharness build, "
            "which sets ProfilingVerbosity.DETAILED"
        )
    return tuple(_layer(entry) for entry in entries)


def changed_kernels(texts: Sequence[str]) -> tuple[str, ...]:
    """The ONNX layers that several builds of one model give to different kernels, in order.

    Args:
        texts: the inspector's JSON of each build.
    """
    chosen: dict[str, set[str | None]] = {}
    builds = [layers_from_inspector(text) for text in texts]
    nodes = dict.fromkeys(node for layers in builds for layer in layers for node in sorted(layer.nodes))
    for node in nodes:
        chosen[node] = {
            next((layer.tactic or layer.kind for layer in layers if node in layer.nodes), None) for layers in builds
        }
    return tuple(node for node, kernels in chosen.items() if len(kernels) > 1)


def _layer(entry: Mapping[str, Any]) -> EngineLayer:
    metadata = re.findall(r"\[ONNX Layer: ([^\]]+)\]", str(entry.get("Metadata", "")))
    name = str(entry.get("Name", ""))
    weights = entry.get("Weights")
    constants = [_type(each) for each in entry.get("Constants", []) if isinstance(each, dict)]
    weight = _type_in(str(weights["Type"])) if isinstance(weights, dict) and "Type" in weights else None
    return EngineLayer(
        name=name,
        kind=str(entry.get("LayerType", "")),
        parameters=str(entry.get("ParameterType", "")),
        tactic=str(entry.get("TacticName", "")),
        nodes=frozenset(metadata or _nodes_in(name)),
        inputs=tuple(_type(each) for each in entry.get("Inputs", [])),
        outputs=tuple(_type(each) for each in entry.get("Outputs", [])),
        weight=weight or (constants[0] if constants else None),
    )


def _nodes_in(name: str) -> list[str]:
    """The nodes that a name of 8.6 joins: "w + conv + relu", "conv1 || conv2"; of a region the first and the last."""
    region = re.fullmatch(r"\{ForeignNode\[(.+)\.\.\.(.+)\]\}", name)
    return list(region.groups()) if region else re.split(r" \+ | \|\| ", name)


def _type(tensor: Mapping[str, Any]) -> str:
    return _type_in(str(tensor.get("Format/Datatype") or tensor.get("Datatype") or tensor.get("DataType") or ""))


def _type_in(text: str) -> str:
    found = re.findall(rf"\b({'|'.join(TYPES)})\b", text.lower())
    return TYPES[found[-1]] if found else UNKNOWN


def _proofs(layers: Sequence[Layer], kernels: Sequence[EngineLayer]) -> Iterator[LayerProof]:
    """Each layer of the file with the engine's layer that computes it: a kernel for products before a fused region."""
    for layer in layers:
        named = [kernel for kernel in kernels if layer.name in kernel.nodes]
        kernel = next((each for each in named if each.multiplies), None)
        region = next((each for each in named if each.opaque), None)
        types = kernel.types if kernel is not None else ()
        yield layer_proof(layer, _kernel_name(kernel or region), types, _reason(layer, kernel, region))


def _kernel_name(layer: EngineLayer | None) -> str | None:
    return None if layer is None else layer.tactic or layer.kind


def _reason(layer: Layer, kernel: EngineLayer | None, region: EngineLayer | None) -> str:
    """Why a layer does not run on an integer kernel, most basic cause first."""
    types = kernel.types if kernel is not None else ()
    causes = (
        (
            kernel is None and region is not None,
            "it is inside a fused region, whose types cannot be seen from outside",
        ),
        (kernel is None, "no layer of the engine names it"),
        (UNKNOWN in types, "the inspector does not say with which types it computes"),
        ("float8" in types, "FP8 is a floating-point type, not an integer"),
        ("int4" in types, "INT4 is weight-only: its kernel computes in float"),
        (layer.activation == "float" and layer.weight == "float", "it is not quantised in the file"),
        (layer.activation == "float", f"weight-only {layer.weight}: its activation is float"),
        (layer.weight == "float", "its weight is not quantised in the file"),
    )
    return next((text for holds, text in causes if holds), "TensorRT chose a float kernel")


def _others(layers: Sequence[EngineLayer]) -> dict[str, int]:
    """Layers without products, with what they make of what: "Reformat(float to int8)" -> count."""
    counts: Counter[str] = Counter()
    for layer in layers:
        if not layer.multiplies:
            first, made = (tensors[0] if tensors else UNKNOWN for tensors in (layer.inputs, layer.outputs))
            counts[f"{layer.kind}({first})" if first == made else f"{layer.kind}({first} to {made})"] += 1
    return dict(counts.most_common())
