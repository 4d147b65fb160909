"""What every improvement is given and returns, and how layers lie in a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import onnx

from exporters.base import Picture
from exporters.products import Left

T = TypeVar("T")


class Over(Protocol):
    """The same items, under a bar of their own: `harness.progress.Progress.over`."""

    def __call__(self, what: str, items: Sequence[T], /) -> Iterable[T]: ...


@dataclass(frozen=True)
class Material:
    """What an improvement may look at.

    Args:
        pictures: gives the calibration inputs, float32, one at a time, as often as it is called.
        over: shows progress.
    """

    pictures: Callable[[], Iterable[Picture]]
    over: Over


@dataclass(frozen=True)
class Improved:
    """What an improvement did.

    Args:
        changed: the layers whose numbers are others now, by name; none where it found nothing to do.
        left: the layers that it would have liked to change and did not, with the reason.
    """

    changed: tuple[str, ...]
    left: tuple[Left, ...] = ()


class Improvement(Protocol):
    """What the factory of a row of `exporters.IMPROVEMENTS` returns."""

    @property
    def after(self) -> bool:
        """Whether it changes the Q/DQ file, after calibration; else it changes the float model, before."""

    def __call__(self, model: onnx.ModelProto, original: onnx.ModelProto, material: Material) -> Improved:
        """Change ``model`` in place.

        Args:
            model: the folded float model, or the Q/DQ file.
            original: the folded float model, which stays as it is.
            material: what else it may look at.
        """


class Graph:
    """Look-ups in one graph that does not change meanwhile."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.makers = {name: node for node in graph.node for name in node.output}
        self._outputs = {value.name for value in graph.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self._readers.setdefault(name, []).append(node)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read a tensor, each once."""
        return self._readers.get(name, [])

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor; ``None`` where several do, or the caller of the model does."""
        found = self.readers(name)
        return found[0] if len(found) == 1 and name not in self._outputs else None
