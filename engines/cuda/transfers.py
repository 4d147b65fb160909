"""The seam between this project and CUDA: page-locked memory, device memory, streams, events and copies.

Everything is on the first device that the process sees, in its primary context, the one that ONNX Runtime, TensorRT and
PyTorch use too. Every function may be called from any thread.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engines.base import EngineError, EngineUnavailable
from engines.cuda import TRANSFERS
from engines.cuda.device import Device

Bytes = npt.NDArray[np.uint8]
Pointer = int

# What a back-end calls a stream, an event, a graph: nobody looks inside.
Stream = Any
Event = Any
Graph = Any

# cudaError_t and CUresult agree on these.
OUT_OF_MEMORY, OLD_DRIVER, STUB_LIBRARY, NO_DEVICE, MISMATCH = 2, 35, 34, 100, 803


class Transfers(Protocol):
    """What a back-end can do. Every failure is the `EngineError` that `cuda_error` makes.

    Attributes:
        version: the package that reaches CUDA, with its version, such as "cuda-bindings 13.0.1".
    """

    version: str

    def __hash__(self) -> int:
        """A back-end is known by its identity: there is one in a process."""

    def device(self) -> Device:
        """What computes, as it says of itself."""

    def memory(self) -> tuple[int, int]:
        """Bytes of device memory: free, total."""

    def host(self, size: int) -> Bytes:
        """New page-locked memory, uint8 [size]; it lives until `free_host`."""

    def free_host(self, memory: Bytes) -> None:
        """Give back what `host` returned."""

    def lock(self, memory: Bytes) -> None:
        """Page-lock memory that exists already. Locking it twice is an error."""

    def unlock(self, address: int) -> None:
        """Undo `lock` of the memory that begins here."""

    def allocate(self, size: int) -> Pointer:
        """New device memory."""

    def free(self, pointer: Pointer) -> None:
        """Give back what `allocate` returned."""

    def stream(self) -> Stream:
        """A new stream that does not wait for the default stream."""

    def handle(self, stream: Stream) -> int:
        """The ``cudaStream_t`` as a number, for libraries that take one."""

    def event(self) -> Event:
        """A new event that notes the time when it is reached. Who waits for it leaves the core to others."""

    def destroy(self, thing: Stream | Event | Graph) -> None:
        """Give a stream, an event or a graph back."""

    def copy_in(self, target: Pointer, source: Bytes, stream: Stream) -> None:
        """Enqueue a copy to the device. Source and target must stay as they are until it is done."""

    def copy_out(self, target: Bytes, source: Pointer, stream: Stream) -> None:
        """Enqueue a copy from the device. ``target`` is not to be read until it is done."""

    def copy_within(self, target: Pointer, source: Pointer, size: int, stream: Stream) -> None:
        """Enqueue a copy on the device."""

    def record(self, event: Event, stream: Stream) -> None:
        """The event is reached when everything that the stream was given so far is done."""

    def wait(self, stream: Stream, event: Event) -> None:
        """What the stream is given from now on begins after the event is reached."""

    def synchronise(self, event: Event) -> None:
        """Return after the event is reached."""

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Milliseconds between two events that were reached."""

    def capture(self, stream: Stream, enqueue: Callable[[], None]) -> Graph:
        """What ``enqueue`` gives the stream, as a graph, instead of running it."""

    def launch(self, graph: Graph, stream: Stream) -> None:
        """Enqueue all of a graph at once."""


def transfers_named(name: str = "") -> Transfers:
    """The back-end of a name, or the first that is installed. It is opened once and serves the whole process.

    Raises:
        EngineUnavailable: it is not installed, or there is no device or driver.
        EngineError: there is no such name.
    """
    if name and name not in TRANSFERS:
        near = difflib.get_close_matches(name, TRANSFERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise EngineError(f"engine_transfers: expected one of {', '.join(TRANSFERS)}; got {name!r}{hint}")
    missing = []
    for row in (name,) if name else tuple(TRANSFERS):
        try:
            return opened(row)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] == "engines":
                raise
            missing.append(f"pip install 'qharness[{TRANSFERS[row].extra}]'")
    raise EngineUnavailable(f"an engine on a GPU needs a package to reach CUDA: {' or '.join(missing)}")


@cache
def opened(row: str) -> Transfers:
    """The back-end of a row, which is opened once, however it was asked for."""
    module, _, attribute = TRANSFERS[row].target.partition(":")
    back_end: Transfers = getattr(importlib.import_module(module), attribute)()
    return back_end


def cuda_error(transfers: str, doing: str, code: int, said: str) -> EngineError:
    """A failure in words, with what to do about it.

    Args:
        transfers: row of `engines.cuda.TRANSFERS`.
        doing: what was tried.
        code: ``cudaError_t`` or ``CUresult``.
        said: CUDA's own name and message.
    """
    text = f"{transfers}: {doing} failed: {said}."
    if code == OUT_OF_MEMORY:
        return EngineError(f"{text} Choose a smaller --batch, or end what else uses this GPU (nvidia-smi lists it)")
    if code in (OLD_DRIVER, STUB_LIBRARY, MISMATCH):
        return EngineUnavailable(
            f"{text} There is no NVIDIA driver, or it is older than this package wants. nvidia-smi shows the CUDA "
            f"version of the driver: update the driver, or install the package of that version ('cuda-bindings<13')"
        )
    if code == NO_DEVICE:
        return EngineUnavailable(
            f"{text} See that nvidia-smi lists a GPU, that a container was started with --gpus all, and that "
            f"CUDA_VISIBLE_DEVICES does not hide it"
        )
    return EngineError(f"{text} An earlier operation on the GPU may have failed; start the command again")
