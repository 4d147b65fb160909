"""Ring: slots between the caller and the device, so that one batch is copied in while another computes.

A slot goes free -> filling -> submitted -> done -> free. Its batch crosses three streams, copy in, compute and copy
out, and each waits for the one before by an event; the caller waits for the last. A slot is filled again only after
that, so nothing is overwritten that is still to be read.

A forgotten wait would be no failure but a wrong answer now and then. So each batch carries a **canary**, its number: it
is the last thing copied in, the first read and the last written where the network runs, and the first and the last
thing copied out. Streams keep their order, so whoever gets the right number at both ends has the right answer, and a
wrong one is a `RingError`. That holds for the order of our events, and of a network that really runs on the compute
stream: of one that starts its kernels elsewhere the canary sees nothing.

Nor does it see pictures that their owner overwrites while they are on their way. A ring that is ``checked`` takes their
checksum before and after; it costs more than the copy, so it is for tests.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.base import EngineError
from engines.cuda.transfers import Bytes, Event, Pointer, Stream, Transfers

Array = npt.NDArray[Any]
SLOTS = 3  # one copied in, one computed, one copied out

# Gives the network to the compute stream: (rows, input on the device, output on the device).
Enqueue = Callable[[int, Pointer, Pointer], None]

_NUMBER = np.dtype(np.uint64)


class RingError(RuntimeError):
    """A slot was used out of turn, or the events are in a wrong order: a bug, not the user's fault."""


class State(Enum):
    """Where a slot is on its way round."""

    FREE = "free"
    FILLING = "filling"
    SUBMITTED = "submitted"
    DONE = "done"


@dataclass(frozen=True)
class Stages:
    """What one batch took on the device, by its events, in milliseconds.

    Args:
        copy_in_ms: from page-locked memory.
        compute_ms: of the network.
        copy_out_ms: of the answers.
    """

    copy_in_ms: float
    compute_ms: float
    copy_out_ms: float

    @property
    def total_ms(self) -> float:
        """As long as the batch would take if nothing overlapped."""
        return self.copy_in_ms + self.compute_ms + self.copy_out_ms


@dataclass(frozen=True)
class Streams:
    """The three streams, in the order in which a batch crosses them."""

    copy_in: Stream
    compute: Stream
    copy_out: Stream


@dataclass(frozen=True)
class Row:
    """One row of input or output: its shape without the batch axis, and its NumPy dtype."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of a row."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


class Slot:
    """Memory for one batch on both sides, and the events of its way.

    Attributes:
        input: page-locked [rows, ...], to be filled.
        output: page-locked [rows, ...], to be read when the slot is done.
        state: where it is.
        stages: what its last batch took.
    """

    def __init__(self, transfers: Transfers, rows: int, kinds: tuple[Row, Row], owned: ExitStack) -> None:
        def host(size: int) -> Bytes:
            memory = transfers.host(size)
            owned.callback(transfers.free_host, memory)
            return memory

        def device(size: int) -> Pointer:
            pointer = transfers.allocate(size)
            owned.callback(transfers.free, pointer)
            return pointer

        def event() -> Event:
            made = transfers.event()
            owned.callback(transfers.destroy, made)
            return made

        taken, given = kinds
        # The device first: it has less, and what is page-locked in vain slows the whole host.
        self.device_in, self.device_out = device(rows * taken.nbytes), device(rows * given.nbytes)
        self.host_in, self.host_out = host(rows * taken.nbytes), host(rows * given.nbytes)
        self.input: Array = self.host_in.view(taken.dtype).reshape(rows, *taken.shape)
        self.output: Array = self.host_out.view(given.dtype).reshape(rows, *given.shape)
        self.number, self.first, self.last = (host(_NUMBER.itemsize) for _ in range(3))
        self.arrived, self.read, self.written = (device(_NUMBER.itemsize) for _ in range(3))
        self.began, self.copied_in = event(), event()
        self.computing, self.computed = event(), event()
        self.leaving, self.copied_out = event(), event()
        self.state = State.FREE
        self.rows = 0
        self.source: Bytes | None = None
        self.checksum = 0
        self.stages: Stages | None = None


class Ring:
    """Slots, used by any number of threads; each has the slots that it acquired to itself.

    Args:
        transfers: how to reach CUDA.
        streams: what the batches cross.
        enqueue: gives the network to ``streams.compute``.
        kinds: one row of input, one of output.
        slots: how many batches may be under way.
        checked: whether pictures are compared by a checksum with what they were when they were submitted.
    """

    def __init__(
        self,
        transfers: Transfers,
        streams: Streams,
        enqueue: Enqueue,
        kinds: tuple[Row, Row],
        slots: int = SLOTS,
        checked: bool = False,
    ) -> None:
        self._transfers, self._streams, self._enqueue, self._kinds = transfers, streams, enqueue, kinds
        self.slots = slots
        self._checked = checked
        self._rows = self._wanted = self._number = 0
        self._slots: list[Slot] = []
        self._owned = ExitStack()
        self._closed = False
        self._changed = threading.Condition()
        self._submitting = threading.Lock()

    def acquire(self, rows: int) -> Slot:
        """A free slot with room for so many rows, to be filled; waits for one.

        Where there is too little room, it waits until all slots are free, and makes larger ones.

        Raises:
            EngineError: there is too little memory. The ring then has no slots, and may be asked for fewer rows. Or it
                was closed.
        """
        with self._changed:
            while True:
                if self._closed:
                    raise EngineError("the engine was closed while batches were still given to it; open it again")
                self._wanted = max(self._wanted, rows)
                free = [slot for slot in self._slots if slot.state is State.FREE]
                if self._wanted > self._rows and len(free) == len(self._slots):
                    self._allocate(self._wanted)
                elif self._wanted <= self._rows and free:
                    free[0].state = State.FILLING
                    return free[0]
                else:
                    self._changed.wait()

    def submit(self, slot: Slot, rows: int, source: Bytes | None = None) -> None:
        """Send the first rows of a slot on their way.

        Args:
            source: page-locked memory that holds the rows instead of ``slot.input``; it must stay as it is until
                `collect`.

        Raises:
            EngineError: CUDA or the network refuses; the slot is then as before.
        """
        self._expect(slot, State.FILLING)
        if not 1 <= rows <= self._rows:
            raise RingError(f"expected 1 to {self._rows} rows, got {rows}")
        slot.rows, slot.source = rows, source
        if self._checked:
            slot.checksum = zlib.crc32(self._pictures(slot).data)
        with self._submitting:
            self._number += 1
            slot.number.view(_NUMBER)[0] = self._number
            try:
                self._send(slot)
            except BaseException:
                self._settle()
                raise
        self._move(slot, State.SUBMITTED)

    def collect(self, slot: Slot) -> Array:
        """Wait for a slot's answer: a view of ``slot.output`` that is valid until `release`.

        Raises:
            EngineError: the network failed on the device.
            RingError: the answer belongs to another batch, or the pictures were overwritten on their way.
        """
        self._expect(slot, State.SUBMITTED)
        transfers = self._transfers
        try:
            transfers.synchronise(slot.copied_out)
        finally:
            self._move(slot, State.DONE)
        sent, *back = (int(memory.view(_NUMBER)[0]) for memory in (slot.number, slot.first, slot.last))
        if back != [sent, sent]:
            raise RingError(f"batch {sent} came back as batch {back}: the events of the ring are in a wrong order")
        if self._checked and zlib.crc32(self._pictures(slot).data) != slot.checksum:
            raise RingError(f"the pictures of batch {sent} were overwritten while they were on their way")
        slot.stages = Stages(
            transfers.elapsed_ms(slot.began, slot.copied_in),
            transfers.elapsed_ms(slot.computing, slot.computed),
            transfers.elapsed_ms(slot.leaving, slot.copied_out),
        )
        answer: Array = slot.output[: slot.rows]
        return answer

    def release(self, slot: Slot) -> None:
        """Give a slot back: one whose answer was read, or one that is not to be submitted after all."""
        self._expect(slot, State.DONE, State.FILLING)
        slot.source = None
        self._move(slot, State.FREE)

    def resident_ms(self, slot: Slot, rows: int, batches: int) -> float:
        """Milliseconds of one batch, of several in a row whose input is whatever lies on the device: nothing is copied.

        Raises:
            EngineError: CUDA or the network refuses.
        """
        self._expect(slot, State.FILLING)
        with self._submitting:
            self._transfers.record(slot.computing, self._streams.compute)
            try:
                for _ in range(batches):
                    self._enqueue(rows, slot.device_in, slot.device_out)
            except BaseException:
                self._settle()
                raise
            self._transfers.record(slot.computed, self._streams.compute)
        self._transfers.synchronise(slot.computed)
        return self._transfers.elapsed_ms(slot.computing, slot.computed) / batches

    def close(self) -> None:
        """Give all memory back, after what is under way; who waits for a slot gets none any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            if self._slots:
                self._settle()
                self._free()

    def _send(self, slot: Slot) -> None:
        transfers, streams = self._transfers, self._streams
        given, size = self._kinds[1].nbytes * slot.rows, _NUMBER.itemsize

        transfers.record(slot.began, streams.copy_in)
        transfers.copy_in(slot.device_in, self._pictures(slot), streams.copy_in)
        transfers.copy_in(slot.arrived, slot.number, streams.copy_in)
        transfers.record(slot.copied_in, streams.copy_in)

        transfers.wait(streams.compute, slot.copied_in)
        transfers.copy_within(slot.read, slot.arrived, size, streams.compute)
        transfers.record(slot.computing, streams.compute)
        self._enqueue(slot.rows, slot.device_in, slot.device_out)
        transfers.copy_within(slot.written, slot.read, size, streams.compute)
        transfers.record(slot.computed, streams.compute)

        transfers.wait(streams.copy_out, slot.computed)
        transfers.copy_out(slot.first, slot.written, streams.copy_out)
        transfers.record(slot.leaving, streams.copy_out)
        transfers.copy_out(slot.host_out[:given], slot.device_out, streams.copy_out)
        transfers.copy_out(slot.last, slot.written, streams.copy_out)
        transfers.record(slot.copied_out, streams.copy_out)

    def _pictures(self, slot: Slot) -> Bytes:
        """Where the pictures of a slot are on the host."""
        return slot.host_in[: self._kinds[0].nbytes * slot.rows] if slot.source is None else slot.source

    def _settle(self) -> None:
        """Wait until nothing is under way."""
        end = self._transfers.event()
        try:
            for stream in (self._streams.copy_in, self._streams.compute, self._streams.copy_out):
                self._transfers.record(end, stream)
                self._transfers.synchronise(end)
        finally:
            self._transfers.destroy(end)

    def _allocate(self, rows: int) -> None:
        self._free()
        try:
            with ExitStack() as owned:
                self._slots = [Slot(self._transfers, rows, self._kinds, owned) for _ in range(self.slots)]
                self._owned = owned.pop_all()
            self._rows = rows
        finally:
            self._wanted = self._rows
            self._changed.notify_all()

    def _free(self) -> None:
        self._slots, self._rows = [], 0
        self._owned.close()

    def _expect(self, slot: Slot, *states: State) -> None:
        if slot.state not in states or slot not in self._slots:
            expected = " or ".join(state.value for state in states)
            found = slot.state.value if slot in self._slots else "not of this ring any more"
            raise RingError(f"expected a slot that is {expected}; this one is {found}")

    def _move(self, slot: Slot, state: State) -> None:
        with self._changed:
            slot.state = state
            self._changed.notify_all()
