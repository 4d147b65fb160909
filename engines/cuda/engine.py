"""An engine on the ring: whatever can start a network on a stream becomes an `engines.base.Engine`.

It is reentrant: a call waits for its own batch alone, so with two callers or more one batch is copied while another
computes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cache
from typing import Any, Protocol

import numpy as np

from engines.artifact import Artifact, TensorSpec
from engines.base import Array, EngineError
from engines.cuda.locks import PageLocks
from engines.cuda.ring import Ring, Row, Slot, Stages, Streams
from engines.cuda.transfers import Bytes, Pointer, Transfers

REMEMBERED = 100_000  # batches whose stages are kept until somebody asks


class Network(Protocol):
    """A network that was opened on a stream.

    Attributes:
        most_rows: the largest batch that it takes, or ``None``. Larger ones are cut.
    """

    most_rows: int | None

    def enqueue(self, rows: int, source: Pointer, target: Pointer) -> None:
        """Give one batch to the stream, and do not wait for it."""

    def facts(self) -> dict[str, Any]:
        """As `engines.base.Engine.facts`, of the network alone."""

    def close(self) -> None:
        """Give everything back; nothing is under way."""


# Opens a network on the compute stream, of which it gets the ``cudaStream_t`` too.
OpenNetwork = Callable[[Transfers, Any], Network]


class RingEngine:
    """A network behind a ring of slots.

    Args:
        artifact: what it declares.
        transfers: how to reach CUDA.
        open_network: opens it on the compute stream.
        checked: as of `Ring`.
    """

    reentrant = True

    def __init__(
        self, artifact: Artifact, transfers: Transfers, open_network: OpenNetwork, checked: bool = False
    ) -> None:
        self.inputs: tuple[TensorSpec, ...] = (artifact.input,)
        self.outputs: tuple[TensorSpec, ...] = (artifact.output,)
        self._path = artifact.path
        self._transfers = transfers
        self._locks = process_locks(transfers)
        self._stages: deque[Stages] = deque(maxlen=REMEMBERED)
        self._closing = threading.Lock()
        kinds = (_row(artifact, artifact.input), _row(artifact, artifact.output))
        with ExitStack() as owned:
            streams = Streams(*(self._stream(owned) for _ in range(3)))
            self._network = open_network(transfers, streams.compute)
            owned.callback(self._network.close)
            self._ring = Ring(transfers, streams, self._network.enqueue, kinds, checked=checked)
            owned.callback(self._ring.close)
            self._owned: ExitStack | None = owned.pop_all()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """See `engines.base.Engine.run`."""
        ((name, batch),) = feeds.items()
        most = self.most_rows or len(batch)
        parts = [self.collect(self.submit({name: batch[at : at + most]})) for at in range(0, len(batch), most)]
        return parts[0] if len(parts) == 1 else {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def submit(self, feeds: Mapping[str, Array]) -> Slot:
        """Send a batch on its way; `collect` must follow. Waits for a free slot.

        A batch in page-locked memory (`page_lock`) is copied from where it is, and must stay as it is until then.
        """
        self._open()
        (batch,) = feeds.values()
        slot = self._ring.acquire(len(batch))
        try:
            if self._locks.covers(batch):
                self._ring.submit(slot, len(batch), batch)
            else:
                slot.input[: len(batch)] = batch
                self._ring.submit(slot, len(batch))
        except BaseException:
            self._ring.release(slot)
            raise
        return slot

    def collect(self, slot: Slot) -> dict[str, Array]:
        """Wait for the answer of a submitted batch, and free its slot."""
        try:
            answer = self._ring.collect(slot).copy()
            if slot.stages is not None:
                self._stages.append(slot.stages)
        finally:
            self._ring.release(slot)
        return {self.outputs[0].name: answer}

    def page_lock(self, memory: Bytes) -> None:
        """Lock memory in which batches will be, so that they are copied to the device from there.

        It stays locked until the array and all its views are gone.
        """
        self._open()
        self._locks.lock(memory)

    @property
    def most_rows(self) -> int | None:
        """The largest batch that the network takes in one piece, or ``None``."""
        return self._network.most_rows

    def resident_ms(self, rows: int, batches: int) -> float:
        """Milliseconds that the network takes for a batch whose input is on the device: the mean of several."""
        self._open()
        slot = self._ring.acquire(rows)
        try:
            return self._ring.resident_ms(slot, rows, batches)
        finally:
            self._ring.release(slot)

    def take_stages(self) -> list[Stages]:
        """What the batches since the last call took on the device."""
        return [self._stages.popleft() for _ in range(len(self._stages))]

    def facts(self) -> dict[str, Any]:
        """See `engines.base.Engine.facts`."""
        self._open()
        device = self._transfers.device()
        return {
            **self._network.facts(),
            "device": device.name,
            "kernel_class": f"sm_{device.compute_capability.replace('.', '')}",
            "cuda": device.cuda,
            "driver": device.driver,
            "transfers": self._transfers.version,
            "slots": self._ring.slots,
        }

    def close(self) -> None:
        """See `engines.base.Engine.close`."""
        with self._closing:
            owned, self._owned = self._owned, None
        if owned is not None:
            owned.close()

    def _open(self) -> None:
        if self._owned is None:
            raise EngineError(f"the engine of {self._path} is closed; open it again")

    def _stream(self, owned: ExitStack) -> Any:
        stream = self._transfers.stream()
        owned.callback(self._transfers.destroy, stream)
        return stream


@cache
def process_locks(transfers: Transfers) -> PageLocks:
    """The locks of this process, which all its engines share as they share the device's context."""
    return PageLocks(transfers)


def _row(artifact: Artifact, spec: TensorSpec) -> Row:
    shape = (*artifact.size, 3) if artifact.layout == "nhwc" else (3, *artifact.size)
    return Row(shape if spec is artifact.input else (artifact.class_count,), spec.dtype)
