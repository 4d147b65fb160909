"""A double of CUDA without a device, as late and as unfair as its rules allow.

What is given to a stream does not run then. It runs when somebody waits for an event, and of all that is allowed to run
only what this event needs; or, with a generator, whatever is allowed, at random, whenever anything is called. So an
order that no event enforces is an order that does not happen, and a forgotten wait shows in the answer. Device memory
is the host's, at its true address, so that anything that computes on a CPU can stand for a kernel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.base import EngineError
from engines.cuda.device import Device
from engines.cuda.locks import address_of
from engines.cuda.transfers import OUT_OF_MEMORY, Bytes, Pointer, cuda_error

POISON = 0xA5


@dataclass(eq=False)
class Work:
    """Something that a stream was given."""

    do: Callable[[], None]
    after: list[Work]
    done: bool = False

    @property
    def ready(self) -> bool:
        return not self.done and all(each.done for each in self.after)


@dataclass(eq=False)
class LazyStream:
    number: int
    last: Work | None = None
    waits: list[Work] = field(default_factory=list)
    captured: list[Callable[[], None]] | None = None


@dataclass(eq=False)
class LazyEvent:
    work: Work | None = None
    reached_ms: float = 0.0


class LazyCuda:
    """A `Transfers` whose streams are queues.

    Args:
        order: chooses what runs early; without it nothing does.
        total: bytes of device memory.
    """

    version = "lazy 1"

    def __init__(self, order: np.random.Generator | None = None, total: int = 1 << 24) -> None:
        self.total = total
        self.blocks: dict[Pointer, Bytes] = {}
        self.hosts: dict[int, Bytes] = {}
        self.locked: dict[int, int] = {}
        self.streams = self.events = self.captures = 0
        self.by_handle: dict[int, LazyStream] = {}
        self._order = order
        self._pending: list[Work] = []
        self._clock_ms = 0.0
        self._mutex = threading.RLock()

    def device(self) -> Device:
        return Device("a double without a device", "0.0", "0.0", None)

    def memory(self) -> tuple[int, int]:
        return self.total - sum(map(len, self.blocks.values())), self.total

    def host(self, size: int) -> Bytes:
        memory = np.full(size, POISON, np.uint8)
        self.hosts[address_of(memory)] = memory
        return memory

    def free_host(self, memory: Bytes) -> None:
        self.hosts.pop(address_of(memory))[:] = POISON

    def lock(self, memory: Bytes) -> None:
        if address_of(memory) in self.locked:
            raise cuda_error("lazy", "page-locking", 712, "locked already")
        self.locked[address_of(memory)] = memory.nbytes

    def unlock(self, address: int) -> None:
        if address not in self.locked:
            raise cuda_error("lazy", "unlocking", 713, "not locked")
        del self.locked[address]

    def allocate(self, size: int) -> Pointer:
        with self._mutex:
            free, _ = self.memory()
            if size > free:
                raise cuda_error("lazy", f"taking {size} bytes", OUT_OF_MEMORY, f"{free} are free")
            block = np.full(size, POISON, np.uint8)
            self.blocks[address_of(block)] = block
            return address_of(block)

    def free(self, pointer: Pointer) -> None:
        self.blocks.pop(pointer)[:] = POISON

    def stream(self) -> LazyStream:
        self.streams += 1
        stream = LazyStream(len(self.by_handle) + 1)
        self.by_handle[self.handle(stream)] = stream
        return stream

    def handle(self, stream: LazyStream) -> int:
        return 0xC0DA + stream.number

    def event(self) -> LazyEvent:
        self.events += 1
        return LazyEvent()

    def destroy(self, thing: Any) -> None:
        if isinstance(thing, LazyStream):
            self.streams -= 1
        elif isinstance(thing, LazyEvent):
            self.events -= 1

    def copy_in(self, target: Pointer, source: Bytes, stream: LazyStream) -> None:
        if self._page_locked(source):
            self.give(stream, lambda: self._put(target, source))
        else:
            staged = source.copy()  # CUDA stages memory that is not page-locked before it returns
            self.give(stream, lambda: self._put(target, staged))

    def copy_out(self, target: Bytes, source: Pointer, stream: LazyStream) -> None:
        def copy() -> None:
            _flat(target)[:] = self.at(source, target.nbytes)

        self.give(stream, copy)

    def copy_within(self, target: Pointer, source: Pointer, size: int, stream: LazyStream) -> None:
        self.give(stream, lambda: self._put(target, self.at(source, size)))

    def record(self, event: LazyEvent, stream: LazyStream) -> None:
        def reach() -> None:
            event.reached_ms = self._clock_ms

        event.work = self.give(stream, reach)

    def wait(self, stream: LazyStream, event: LazyEvent) -> None:
        if event.work is not None:
            stream.waits.append(event.work)

    def synchronise(self, event: LazyEvent) -> None:
        with self._mutex:
            if event.work is not None:
                self._finish(event.work)

    def elapsed_ms(self, start: LazyEvent, end: LazyEvent) -> float:
        return end.reached_ms - start.reached_ms

    def capture(self, stream: LazyStream, enqueue: Callable[[], None]) -> list[Callable[[], None]]:
        self.captures += 1
        stream.captured = []
        try:
            enqueue()
            return stream.captured
        finally:
            stream.captured = None

    def launch(self, graph: list[Callable[[], None]], stream: LazyStream) -> None:
        for do in graph:
            self.give(stream, do)

    def give(self, stream: LazyStream, do: Callable[[], None]) -> Work:
        """Enqueue anything: the double of a kernel."""
        with self._mutex:
            work = Work(do, [*stream.waits, *([stream.last] if stream.last else [])])
            if stream.captured is not None:
                stream.captured.append(do)
                return work
            stream.last, stream.waits = work, []
            self._pending.append(work)
            self._some()
            return work

    def at(self, pointer: Pointer, size: int) -> Bytes:
        """Device memory, for kernels."""
        with self._mutex:
            found = next((start for start, block in self.blocks.items() if start <= pointer < start + len(block)), None)
            if found is None or pointer + size > found + len(self.blocks[found]):
                raise EngineError(f"lazy: {size} bytes at {pointer} are not allocated")
            return self.blocks[found][pointer - found :][:size]

    def idle(self) -> bool:
        """Whether everything was given back."""
        return not (self.blocks or self.hosts or self.locked or self.streams or self.events)

    def _put(self, target: Pointer, values: npt.NDArray[Any]) -> None:
        self.at(target, values.nbytes)[:] = _flat(values)

    def _page_locked(self, memory: npt.NDArray[Any]) -> bool:
        start = address_of(memory)
        ranges = {**{low: len(block) for low, block in self.hosts.items()}, **self.locked}
        return any(low <= start and start + memory.nbytes <= low + size for low, size in ranges.items())

    def _run(self, work: Work) -> None:
        self._clock_ms += 1.0
        work.do()
        work.done = True
        work.after = []
        self._pending.remove(work)

    def _some(self) -> None:
        """Run what is allowed, at random."""
        while self._order is not None and self._order.random() < 0.5:
            ready = [work for work in self._pending if work.ready]
            if not ready:
                return
            self._run(ready[int(self._order.integers(len(ready)))])

    def _finish(self, work: Work) -> None:
        """Run what an event needs, and nothing that it does not."""
        self._some()
        while not work.done:
            needed = work
            while not needed.ready:
                needed = next(each for each in needed.after if not each.done)
            self._run(needed)
            self._some()


def _flat(values: npt.NDArray[Any]) -> Bytes:
    return values.reshape(-1).view(np.uint8)
