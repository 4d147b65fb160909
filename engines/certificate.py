"""The integer-execution certificate: which share of a network's work really ran on integer kernels.

A request for INT8 is a wish. The certificate is read from what ran: the optimised graph and the profile of a
call. Work that could not be matched to a kernel counts as not integer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

from engines.artifact import Artifact
from engines.base import Array, EngineOptions
from engines.macs import Layer

INTEGER_TYPES = ("int8", "uint8", "int4", "uint4")

K = TypeVar("K")  # what an engine knows of a kernel that ran


@dataclass(frozen=True)
class LayerProof:
    """One layer of the file and the kernel that ran it.

    Args:
        layer: the layer's name in the file.
        operator: its operator in the file.
        macs: its multiply-accumulates for one picture.
        kernel: the kernel that ran, or ``None`` when no executed kernel could be matched.
        input_types: element types of activation and weight as the kernel was fed.
        integer: whether both are 8 bits or fewer.
        reason: why not, in words; ``None`` for an integer layer.
    """

    layer: str
    operator: str
    macs: int
    kernel: str | None
    input_types: tuple[str, ...]
    integer: bool
    reason: str | None


@dataclass(frozen=True)
class Certificate:
    """Proof of what ran.

    Args:
        layers: every layer that multiplies and accumulates, in the order of the file.
        other_kernels: executed kernels without multiply-accumulates, "Operator(types)" -> count.
        evidence: where it was read from: runtime, provider, kernel class.
    """

    layers: tuple[LayerProof, ...]
    other_kernels: Mapping[str, int]
    evidence: Mapping[str, Any]

    @property
    def total_macs(self) -> int:
        """Multiply-accumulates of the whole file for one picture."""
        return sum(layer.macs for layer in self.layers)

    @property
    def integer_macs(self) -> int:
        """Those that ran on integer kernels."""
        return sum(layer.macs for layer in self.layers if layer.integer)

    @property
    def integer_fraction(self) -> float | None:
        """The share on integer kernels, 0 to 1; ``None`` for a network without multiply-accumulates."""
        return self.integer_macs / self.total_macs if self.total_macs else None

    @property
    def fallbacks(self) -> tuple[LayerProof, ...]:
        """The layers that did not run on integer kernels, largest first."""
        return tuple(sorted((x for x in self.layers if not x.integer), key=lambda x: -x.macs))

    def describe(self) -> dict[str, Any]:
        """The certificate as JSON."""
        return {
            "integer_fraction": self.integer_fraction,
            "integer_macs": self.integer_macs,
            "total_macs": self.total_macs,
            "layers": [asdict(layer) for layer in self.layers],
            "other_kernels": dict(self.other_kernels),
            "evidence": dict(self.evidence),
        }


def layer_proof(layer: Layer, kernel: str | None, types: Sequence[str], reason: str) -> LayerProof:
    """The proof of a layer from what ran.

    Args:
        kernel: the kernel that ran, or ``None``.
        types: element types of activation and weight as it was fed; empty without a kernel.
        reason: why it is not integer, where it is not.
    """
    integer = bool(types) and all(each in INTEGER_TYPES for each in types)
    return LayerProof(
        layer=layer.name,
        operator=layer.operator,
        macs=layer.macs,
        kernel=kernel,
        input_types=tuple(types),
        integer=integer,
        reason=None if integer else reason,
    )


def kernels_by_layer(
    layers: Sequence[Layer], kernels: Sequence[K], same: Sequence[Callable[[K, Layer], bool]]
) -> dict[str, K]:
    """Which kernel ran each layer.

    Runtimes rename layers when they fuse them, so each test of ``same`` is tried on all layers before the next: the
    first free kernel that passes is taken. What is left is matched by order, if every pair passes the last test.

    Args:
        layers: of the file, in its order.
        kernels: that ran, in their order.
        same: from the surest sign that a kernel ran a layer to the least that must hold.
    """
    free = list(kernels)
    matched: dict[str, K] = {}
    for test in same[:-1]:
        for layer in layers:
            found = next((each for each in free if layer.name not in matched and test(each, layer)), None)
            if found is not None:
                matched[layer.name] = found
                free.remove(found)
    rest = [layer for layer in layers if layer.name not in matched]
    if len(rest) == len(free) and all(map(same[-1], free, rest)):
        matched.update({layer.name: kernel for layer, kernel in zip(rest, free, strict=True)})
    return matched


class Certify(Protocol):
    """What the ``certify`` column of `engines.ENGINES` names: run ``feeds`` once and read what happened."""

    def __call__(self, artifact: Artifact, options: EngineOptions, feeds: Mapping[str, Array]) -> Certificate: ...
