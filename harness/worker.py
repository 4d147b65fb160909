"""Worker: a process that prepares pictures into shared memory. Its parent is `harness.workers`.

It owns its slots: what it fills it may not touch again until the parent gives it back, so no lock is shared with
another process and one that dies can spoil nothing but its own memory.
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from harness.batches import Bundle, Inputs, Preparation, Preparer, Row
from harness.memory import keep_freed_memory

# The memory begins with what is at work and since when, which outlive the process; slots follow.
HEADER_BYTES = mmap.PAGESIZE
NOTHING = -1
WAITING = 0.0  # as a moment: fresh memory says the same, so a process that starts is not late


class Filled(NamedTuple):
    """A batch is ready.

    Args:
        bundle: its index.
        number: of the batch in the bundle.
        rows: with and without errors.
        slot: where the inputs are; ``None`` where there are none.
        inputs: how many there are.
        last: whether the bundle is finished.
        stage_seconds: spent since the last message.
        cpu_seconds: the same, as processor time.
        blocked_seconds: time without a free slot since the last message.
    """

    bundle: int
    number: int
    rows: tuple[Row, ...]
    slot: int | None
    inputs: int
    last: bool
    stage_seconds: dict[str, float]
    cpu_seconds: float
    blocked_seconds: float


@dataclass(frozen=True)
class Shared:
    """The memory that a worker and its parent both see.

    Args:
        memory: all of it; ``at`` and ``slots`` are views, and keep it.
        at: int64 [2], the bundle and the position at work.
        since: float64 [1], when the worker last began a picture or was given a slot, in seconds of the monotonic
            clock, which all processes share; `WAITING` while it waits for its parent.
        slots: [slots, batch, ...], the inputs of one batch each.
    """

    memory: npt.NDArray[np.uint8]
    at: npt.NDArray[np.int64]
    since: npt.NDArray[np.float64]
    slots: npt.NDArray[Any]


def shared_bytes(preparation: Preparation, slots: int) -> int:
    """How much memory a worker with so many slots needs."""
    return HEADER_BYTES + slots * preparation.place().nbytes


def shared_from_descriptor(descriptor: int, preparation: Preparation, slots: int) -> Shared:
    """Map the memory; it lives as long as an array of it."""
    memory = np.frombuffer(mmap.mmap(descriptor, shared_bytes(preparation, slots)), np.uint8)
    shape = (slots, preparation.batch, *preparation.shape)
    size = 2 * np.dtype(np.int64).itemsize
    header = size + np.dtype(np.float64).itemsize
    return Shared(
        memory,
        memory[:size].view(np.int64),
        memory[size:header].view(np.float64),
        memory[HEADER_BYTES:].view(preparation.dtype).reshape(shape),
    )


class _Inbox:
    """What the parent sent: bundles to do, and slots that are free again."""

    def __init__(self, connection: Connection, shared: Shared) -> None:
        self._connection = connection
        self._shared = shared
        self._bundles: deque[Bundle] = deque()
        self._free = deque(range(len(shared.slots)))
        self.slot = NOTHING
        self.blocked_seconds = 0.0

    def bundle(self) -> Bundle:
        """The next bundle."""
        while not self._bundles:
            self._receive()
        return self._bundles.popleft()

    def place(self) -> Inputs:
        """A free slot, whose number becomes ``slot``."""
        started = time.perf_counter()
        while not self._free:
            self._receive()
        self.blocked_seconds += time.perf_counter() - started
        self.slot = self._free.popleft()
        self._shared.since[0] = time.monotonic()
        inputs: Inputs = self._shared.slots[self.slot]
        return inputs

    def _receive(self) -> None:
        self._shared.since[0] = WAITING
        message: Bundle | int = self._connection.recv()
        if isinstance(message, Bundle):
            self._bundles.append(message)
        else:
            self._free.append(message)


def work(connection: Connection, descriptor: int) -> None:
    """Prepare bundles until the parent goes.

    Raises:
        EOFError, ConnectionError: it has gone.
    """
    preparation, slots = connection.recv()
    shared = shared_from_descriptor(descriptor, preparation, slots)
    preparer = Preparer(preparation)
    inbox = _Inbox(connection, shared)
    cpu_seconds = time.process_time()
    while True:
        bundle = inbox.bundle()

        def begin(position: int, index: int = bundle.index) -> None:
            shared.at[:] = index, position
            shared.since[0] = time.monotonic()

        for batch in preparer.batches(bundle, inbox.place, begin):
            if batch.last:
                shared.at[:] = NOTHING
            now = time.process_time()
            connection.send(
                Filled(
                    bundle=bundle.index,
                    number=batch.number,
                    rows=batch.rows,
                    slot=inbox.slot if len(batch.inputs) else None,
                    inputs=len(batch.inputs),
                    last=batch.last,
                    stage_seconds=preparer.spent(),
                    cpu_seconds=now - cpu_seconds,
                    blocked_seconds=inbox.blocked_seconds,
                )
            )
            cpu_seconds, inbox.blocked_seconds = now, 0.0


def main() -> None:
    """Run a worker on the two descriptors that the command line names."""
    cv2.setNumThreads(1)  # the workers are the parallelism
    keep_freed_memory()
    try:
        work(Connection(int(sys.argv[2])), int(sys.argv[3]))
    except (EOFError, ConnectionError):
        os._exit(0)  # the parent has gone or wants no more; there is nothing to tidy
