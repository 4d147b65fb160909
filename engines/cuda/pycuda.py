"""CUDA through PyCUDA, for machines whose CUDA is older than any package of ``cuda-bindings``, such as older Jetsons.

Never through ``pycuda.autoinit``, which makes a context of its own that ONNX Runtime and TensorRT do not see. PyCUDA
keeps a stack of contexts for every thread and aborts the process if a thread ends with one on it, so each call puts
the primary context there and takes it away.
"""

from __future__ import annotations

import atexit
import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np

from engines.base import EngineError, EngineUnavailable
from engines.cuda.device import Device, driver_version, version_from_number
from engines.cuda.locks import address_of
from engines.cuda.transfers import (
    NO_DEVICE,
    OUT_OF_MEMORY,
    Bytes,
    Event,
    Graph,
    Pointer,
    Stream,
    cuda_error,
)

try:
    from pycuda import driver
except ModuleNotFoundError:
    raise
except ImportError as missing:
    raise EngineUnavailable(
        f"PyCUDA cannot find the NVIDIA driver, or was compiled for another CUDA: {missing}. See that nvidia-smi "
        f"works, then: pip install --force-reinstall --no-cache-dir pycuda"
    ) from missing

NAME = "pycuda"
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
NO_GRAPHS = (
    "PyCUDA has no option to capture CUDA graphs; leave engine_cuda_graph out, or choose engine_transfers = "
    "'cuda-bindings'"
)


class _Held:
    """A stream or an event, which PyCUDA destroys when the last reference goes: `PyCudaTransfers.destroy` drops it."""

    def __init__(self, thing: Any) -> None:
        self.thing: Any = thing


class PyCudaTransfers:
    """An `engines.cuda.transfers.Transfers` in the device's primary context."""

    def __init__(self) -> None:
        with _failing("starting CUDA"):
            driver.init()
            device = driver.Device(0)
            self._context = device.retain_primary_context()
            newest = driver.get_driver_version()
            self._device = Device(
                name=device.name(),
                compute_capability="{}.{}".format(*device.compute_capability()),
                cuda=version_from_number(newest),
                driver=driver_version(),
            )
        self.version = f"{NAME} {version('pycuda')}"
        # Its destructor would call the wrong function for a primary context.
        atexit.register(self._context.detach)
        self._allocated: dict[Pointer, Any] = {}
        self._library = ctypes.CDLL("libcuda.so.1")

    def device(self) -> Device:
        """See `Transfers.device`."""
        return self._device

    def memory(self) -> tuple[int, int]:
        """See `Transfers.memory`."""
        with self._current("reading free memory"):
            free, total = driver.mem_get_info()
        return int(free), int(total)

    def host(self, size: int) -> Bytes:
        """See `Transfers.host`."""
        with self._current(f"page-locking {size:,} new bytes"):
            memory: Bytes = driver.pagelocked_empty(size, np.uint8)
        return memory

    def free_host(self, memory: Bytes) -> None:
        """See `Transfers.free_host`."""
        owner: Any = memory.base
        with self._current("freeing page-locked memory"):
            owner.free()

    def lock(self, memory: Bytes) -> None:
        """See `Transfers.lock`.

        Not by ``pycuda.driver.register_host_memory``: it gives an array a second owner, which NumPy 2 refuses, and the
        process crashes (2026.1).
        """
        address, size = ctypes.c_void_p(address_of(memory)), ctypes.c_size_t(memory.nbytes)
        doing = f"page-locking {memory.nbytes:,} bytes of worker memory (--workers 0 does without)"
        with self._current(doing):
            self._checked(doing, self._library.cuMemHostRegister_v2(address, size, ctypes.c_uint(0)))

    def unlock(self, address: int) -> None:
        """See `Transfers.unlock`."""
        with self._current("unlocking memory"):
            self._checked("unlocking memory", self._library.cuMemHostUnregister(ctypes.c_void_p(address)))

    def allocate(self, size: int) -> Pointer:
        """See `Transfers.allocate`."""
        free, total = self.memory()
        with self._current(f"taking {size:,} bytes on the device ({free:,} of {total:,} are free)"):
            allocation = driver.mem_alloc(size)
        self._allocated[int(allocation)] = allocation
        return int(allocation)

    def free(self, pointer: Pointer) -> None:
        """See `Transfers.free`."""
        with self._current("freeing device memory"):
            self._allocated.pop(pointer).free()

    def stream(self) -> Stream:
        """See `Transfers.stream`."""
        with self._current("making a stream"):
            return _Held(driver.Stream(NON_BLOCKING))

    def handle(self, stream: Stream) -> int:
        """See `Transfers.handle`."""
        return int(stream.thing.handle)

    def event(self) -> Event:
        """See `Transfers.event`."""
        with self._current("making an event"):
            return _Held(driver.Event(driver.event_flags.BLOCKING_SYNC))

    def destroy(self, thing: Stream | Event | Graph) -> None:
        """See `Transfers.destroy`."""
        with self._current("giving back a stream or an event"):
            thing.thing = None

    def copy_in(self, target: Pointer, source: Bytes, stream: Stream) -> None:
        """See `Transfers.copy_in`."""
        with self._current("a copy in"):
            driver.memcpy_htod_async(target, source, stream.thing)

    def copy_out(self, target: Bytes, source: Pointer, stream: Stream) -> None:
        """See `Transfers.copy_out`."""
        with self._current("a copy out"):
            driver.memcpy_dtoh_async(target, source, stream.thing)

    def copy_within(self, target: Pointer, source: Pointer, size: int, stream: Stream) -> None:
        """See `Transfers.copy_within`."""
        with self._current("a copy on the device"):
            driver.memcpy_dtod_async(target, source, size, stream.thing)

    def record(self, event: Event, stream: Stream) -> None:
        """See `Transfers.record`."""
        with self._current("recording an event"):
            event.thing.record(stream.thing)

    def wait(self, stream: Stream, event: Event) -> None:
        """See `Transfers.wait`."""
        with self._current("waiting for an event"):
            stream.thing.wait_for_event(event.thing)

    def synchronise(self, event: Event) -> None:
        """See `Transfers.synchronise`."""
        with self._current("work on the device"):
            event.thing.synchronize()

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """See `Transfers.elapsed_ms`."""
        with self._current("reading a time"):
            return float(start.thing.time_till(end.thing))

    def capture(self, stream: Stream, enqueue: Callable[[], None]) -> Graph:
        """PyCUDA has no such function."""
        raise EngineError(NO_GRAPHS)

    def launch(self, graph: Graph, stream: Stream) -> None:
        """PyCUDA has no such function."""
        raise EngineError(NO_GRAPHS)

    @contextmanager
    def _current(self, doing: str) -> Iterator[None]:
        """The primary context, on this thread's stack."""
        with _failing(doing):
            self._context.push()
            try:
                yield
            finally:
                self._context.pop()

    @staticmethod
    def _checked(doing: str, code: int) -> None:
        if code:
            raise cuda_error(NAME, doing, code, f"CUresult {code}")


@contextmanager
def _failing(doing: str) -> Iterator[None]:
    """Failures of PyCUDA as errors of engines. It says what happened, but no number."""
    try:
        yield
    except driver.Error as error:
        said = str(error)
        code = (
            OUT_OF_MEMORY if isinstance(error, driver.MemoryError) else NO_DEVICE if "no CUDA-capable" in said else -1
        )
        raise cuda_error(NAME, doing, code, said) from error


def open_pycuda() -> PyCudaTransfers:
    """The back-end of this module.

    Raises:
        EngineUnavailable: there is no device.
    """
    return PyCudaTransfers()
