"""CUDA through ``cuda.bindings``, NVIDIA's own Python bindings of the CUDA runtime."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from cuda.bindings import runtime

from engines.cuda.device import Device, driver_version, version_from_number
from engines.cuda.locks import address_of
from engines.cuda.transfers import (
    OUT_OF_MEMORY,
    Bytes,
    Event,
    Graph,
    Pointer,
    Stream,
    cuda_error,
)

NAME = "cuda-bindings"


class BindingsTransfers:
    """An `engines.cuda.transfers.Transfers`. The runtime uses the primary context in every thread by itself."""

    def __init__(self) -> None:
        # Makes the context, so that what is wrong with driver or device is said here.
        _call("starting CUDA", runtime.cudaFree(0))
        (found,) = _call("reading the device", runtime.cudaGetDeviceProperties(0))
        (driver,) = _call("reading the driver's version", runtime.cudaDriverGetVersion())
        self._device = Device(
            name=found.name.decode().rstrip("\0"),
            compute_capability=f"{found.major}.{found.minor}",
            cuda=version_from_number(driver),
            driver=driver_version(),
        )
        self.version = f"{NAME} {version('cuda-bindings')}"

    def device(self) -> Device:
        """See `Transfers.device`."""
        return self._device

    def memory(self) -> tuple[int, int]:
        """See `Transfers.memory`."""
        free, total = _call("reading free memory", runtime.cudaMemGetInfo())
        return int(free), int(total)

    def host(self, size: int) -> Bytes:
        """See `Transfers.host`."""
        doing = f"page-locking {size:,} new bytes"
        (address,) = _call(doing, runtime.cudaHostAlloc(size, runtime.cudaHostAllocDefault))
        return _bytes_at(int(address), size)

    def free_host(self, memory: Bytes) -> None:
        """See `Transfers.free_host`."""
        _call("freeing page-locked memory", runtime.cudaFreeHost(address_of(memory)))

    def lock(self, memory: Bytes) -> None:
        """See `Transfers.lock`."""
        doing = f"page-locking {memory.nbytes:,} bytes of worker memory (--workers 0 does without)"
        _call(doing, runtime.cudaHostRegister(address_of(memory), memory.nbytes, runtime.cudaHostRegisterDefault))

    def unlock(self, address: int) -> None:
        """See `Transfers.unlock`."""
        _call("unlocking memory", runtime.cudaHostUnregister(address))

    def allocate(self, size: int) -> Pointer:
        """See `Transfers.allocate`."""
        error, pointer = runtime.cudaMalloc(size)
        if int(error) == OUT_OF_MEMORY:
            free, total = self.memory()
            _call(f"taking {size:,} bytes on the device ({free:,} of {total:,} are free)", (error,))
        _call(f"taking {size:,} bytes on the device", (error,))
        return int(pointer)

    def free(self, pointer: Pointer) -> None:
        """See `Transfers.free`."""
        _call("freeing device memory", runtime.cudaFree(pointer))

    def stream(self) -> Stream:
        """See `Transfers.stream`."""
        (stream,) = _call("making a stream", runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking))
        return stream

    def handle(self, stream: Stream) -> int:
        """See `Transfers.handle`."""
        return int(stream)

    def event(self) -> Event:
        """See `Transfers.event`."""
        (event,) = _call("making an event", runtime.cudaEventCreateWithFlags(runtime.cudaEventBlockingSync))
        return event

    def destroy(self, thing: Stream | Event | Graph) -> None:
        """See `Transfers.destroy`."""
        _call(f"giving back {type(thing).__name__}", _DESTROY[type(thing)](thing))

    def copy_in(self, target: Pointer, source: Bytes, stream: Stream) -> None:
        """See `Transfers.copy_in`."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        _call("a copy in", runtime.cudaMemcpyAsync(target, address_of(source), source.nbytes, kind, stream))

    def copy_out(self, target: Bytes, source: Pointer, stream: Stream) -> None:
        """See `Transfers.copy_out`."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _call("a copy out", runtime.cudaMemcpyAsync(address_of(target), source, target.nbytes, kind, stream))

    def copy_within(self, target: Pointer, source: Pointer, size: int, stream: Stream) -> None:
        """See `Transfers.copy_within`."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        _call("a copy on the device", runtime.cudaMemcpyAsync(target, source, size, kind, stream))

    def record(self, event: Event, stream: Stream) -> None:
        """See `Transfers.record`."""
        _call("recording an event", runtime.cudaEventRecord(event, stream))

    def wait(self, stream: Stream, event: Event) -> None:
        """See `Transfers.wait`."""
        _call("waiting for an event", runtime.cudaStreamWaitEvent(stream, event, 0))

    def synchronise(self, event: Event) -> None:
        """See `Transfers.synchronise`."""
        _call("work on the device", runtime.cudaEventSynchronize(event))

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """See `Transfers.elapsed_ms`."""
        (milliseconds,) = _call("reading a time", runtime.cudaEventElapsedTime(start, end))
        return float(milliseconds)

    def capture(self, stream: Stream, enqueue: Callable[[], None]) -> Graph:
        """See `Transfers.capture`."""
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call("capturing a graph", runtime.cudaStreamBeginCapture(stream, mode))
        try:
            enqueue()
        finally:
            ended = runtime.cudaStreamEndCapture(stream)
        (graph,) = _call("capturing a graph (the network may do what none can hold)", ended)
        try:
            (executable,) = _call("making a graph", runtime.cudaGraphInstantiate(graph, 0))
        finally:
            _call("giving back a graph", runtime.cudaGraphDestroy(graph))
        return executable

    def launch(self, graph: Graph, stream: Stream) -> None:
        """See `Transfers.launch`."""
        _call("starting a graph", runtime.cudaGraphLaunch(graph, stream))


_DESTROY: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    runtime.cudaStream_t: runtime.cudaStreamDestroy,
    runtime.cudaEvent_t: runtime.cudaEventDestroy,
    runtime.cudaGraphExec_t: runtime.cudaGraphExecDestroy,
}


def open_bindings() -> BindingsTransfers:
    """The back-end of this module.

    Raises:
        EngineUnavailable: there is no driver, one that is too old, or no device.
    """
    return BindingsTransfers()


def _call(doing: str, answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a function of the runtime returned, behind its error code."""
    error, *rest = answer
    if error != runtime.cudaError_t.cudaSuccess:
        text = runtime.cudaGetErrorString(error)[1]
        raise cuda_error(NAME, doing, int(error), f"{error.name} ({text.decode()})")
    return tuple(rest)


def _bytes_at(address: int, size: int) -> Bytes:
    buffer = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(memoryview(buffer), np.uint8)
