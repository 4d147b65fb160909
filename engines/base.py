"""The seam between the harness and an engine, and the one door through which every call goes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from engines.artifact import Artifact, TensorSpec

Array = npt.NDArray[Any]


class EngineError(Exception):
    """An engine exists but refused or failed; the message says what was expected and what was got."""


class EngineUnavailable(EngineError):
    """An engine cannot exist on this machine; the message says why and what would help."""


class Engine(Protocol):
    """A network that is ready to run.

    Attributes:
        inputs: what ``run`` must be fed.
        outputs: what ``run`` returns.
        reentrant: whether ``run`` may be called from several threads at once.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    reentrant: bool

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and wait for the answer. The returned arrays are the caller's: no later call changes them."""

    def facts(self) -> dict[str, Any]:
        """What really runs, read back from the live object: provider, device, precision, versions, kernels."""

    def close(self) -> None:
        """Give everything back. Closing twice is allowed; running afterwards is an `EngineError`."""


@runtime_checkable
class PageLocking(Protocol):
    """What an engine offers that copies its inputs to a device."""

    def page_lock(self, memory: npt.NDArray[np.uint8]) -> None:
        """Lock memory in which inputs will be, so that they are copied from there.

        It stays locked until the array and all its views are gone. Locking it again changes nothing.
        """


@runtime_checkable
class Piecewise(Protocol):
    """What an engine offers that has a largest batch.

    Attributes:
        most_rows: the largest batch that it runs in one piece, or ``None``. It takes larger ones too, and cuts them.
    """

    @property
    def most_rows(self) -> int | None: ...


# From the graph as it is in the file to everything that the runtime knows.
OPTIMISATIONS = ("disabled", "basic", "extended", "all")


@dataclass(frozen=True)
class EngineOptions:
    """How to open an engine.

    Args:
        integer_kernels: False runs the same Q/DQ file in floating point ("simulated" quantisation).
        threads: threads inside one call. Parallelism comes from calling a reentrant engine more than once.
        optimisation: how far the runtime rewrites the graph, one of `OPTIMISATIONS`.
        arena: whether the runtime keeps freed memory for its next call.
        transfers: row of `engines.cuda.TRANSFERS`; "" takes the first that is installed.
        cuda_graph: whether a GPU is given the whole network at once, as a CUDA graph.
    """

    integer_kernels: bool = True
    threads: int = 1
    optimisation: str = "all"
    arena: bool = True
    transfers: str = ""
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise EngineError(f"an engine needs at least one thread; got {self.threads}")
        if self.optimisation not in OPTIMISATIONS:
            raise EngineError(f"optimisation: expected one of {', '.join(OPTIMISATIONS)}; got {self.optimisation!r}")

    def describe(self) -> dict[str, Any]:
        """What of this changes results; it enters a cell's key. Threads, memory and how a GPU is fed do not."""
        return {"integer_kernels": self.integer_kernels, "optimisation": self.optimisation}


ON_A_GPU = {"transfers": "", "cuda_graph": False}


def refuse_options(runtime: str, options: EngineOptions, only: Mapping[str, Any]) -> None:
    """Refuse options that a runtime does not have: none is ignored.

    Args:
        only: option -> the value that leaves it alone.

    Raises:
        EngineError: an option has another value.
    """
    for name, value in only.items():
        got = getattr(options, name)
        if got != value:
            key = name if name == "integer_kernels" else f"engine_{name}"
            raise EngineError(f"{runtime} has no option {key}; expected {value!r}, got {got!r}: leave it out")


class OpenEngine(Protocol):
    """What a row of `engines.ENGINES` names.

    Raises `EngineUnavailable` (cannot exist here) or `EngineError` (exists, refused this artifact).
    """

    def __call__(self, artifact: Artifact, options: EngineOptions) -> Engine: ...


@dataclass(frozen=True)
class Timed:
    """The outputs of one call and its duration on the one clock that all engines share."""

    outputs: dict[str, Array]
    wall_ns: int


def call(engine: Engine, feeds: Mapping[str, Array]) -> Timed:
    """Check the feeds, run the engine under the clock, check the outputs.

    Raises:
        EngineError: a name, dtype or shape is not what the engine declares, before or after the run.
    """
    _check("input", engine.inputs, feeds)
    started_ns = time.perf_counter_ns()
    outputs = engine.run(feeds)
    wall_ns = time.perf_counter_ns() - started_ns
    _check("output", engine.outputs, outputs)
    return Timed(outputs, wall_ns)


def _check(what: str, specs: tuple[TensorSpec, ...], arrays: Mapping[str, Array]) -> None:
    wanted = {spec.name for spec in specs}
    if wanted != set(arrays):
        raise EngineError(f"expected {what}s {sorted(wanted)}, got {sorted(arrays)}")
    for spec in specs:
        array = arrays[spec.name]
        if array.dtype != np.dtype(spec.dtype) or not spec.accepts(array.shape):
            raise EngineError(
                f"{what} {spec.name!r}: expected {spec.dtype} {spec.shape_text}, got {array.dtype} {list(array.shape)}"
            )
