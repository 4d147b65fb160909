"""The ring on the device: bitwise the synchronous path, however it is delayed; and a forgotten wait is caught."""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from engines.cuda.ring import Ring, RingError, Row, Streams
from engines.cuda.transfers import Event, Stream, Transfers

ROW = Row((3, 64, 64), "uint8")
ROWS = 16
BATCHES = 10_000
DELAY_BYTES = 64 << 20


class Delayed:
    """A ring whose network hands its input on; every stream is kept busy now and then before it does what is next."""

    def __init__(self, transfers: Transfers, seed: int) -> None:
        self.transfers, self.draw = transfers, random.Random(seed)
        self.streams = Streams(transfers.stream(), transfers.stream(), transfers.stream())
        self.scratch = [transfers.allocate(DELAY_BYTES) for _ in range(2)]
        self.ring = Ring(transfers, self.streams, self.enqueue, (ROW, ROW), checked=True)

    def delay(self) -> None:
        stream = self.draw.choice([self.streams.copy_in, self.streams.compute, self.streams.copy_out, None, None])
        if stream is not None:
            for _ in range(self.draw.randint(1, 4)):
                self.transfers.copy_within(*self.scratch, self.draw.randint(1, DELAY_BYTES), stream)

    def enqueue(self, rows: int, source: int, target: int) -> None:
        self.delay()
        self.transfers.copy_within(target, source, rows * ROW.nbytes, self.streams.compute)

    def echo(self, batch: np.ndarray) -> np.ndarray:
        slot = self.ring.acquire(len(batch))
        slot.input[: len(batch)] = batch
        self.ring.submit(slot, len(batch))
        answer = self.ring.collect(slot).copy()
        self.ring.release(slot)
        return answer

    def close(self) -> None:
        self.ring.close()
        for pointer in self.scratch:
            self.transfers.free(pointer)
        for stream in (self.streams.copy_in, self.streams.compute, self.streams.copy_out):
            self.transfers.destroy(stream)


@contextmanager
def delayed(transfers: Transfers, seed: int = 0) -> Iterator[Delayed]:
    ring = Delayed(transfers, seed)
    try:
        yield ring
    finally:
        ring.close()


def batch_of(number: int) -> np.ndarray:
    """Random levels, with the number and the checksum of the rest in front."""
    draw = np.random.default_rng(number)
    batch = draw.integers(0, 256, (int(draw.integers(1, ROWS + 1)), *ROW.shape), np.uint8)
    body = batch.reshape(-1)
    body[:16].view(np.uint64)[:] = number, zlib.crc32(body[16:])
    return batch


def synchronous(transfers: Transfers, batch: np.ndarray) -> np.ndarray:
    """One stream, one batch, waited for: the path without a ring."""
    flat = batch.reshape(-1)
    there, back = transfers.host(flat.nbytes), transfers.host(flat.nbytes)
    one, two, stream, event = (
        transfers.allocate(flat.nbytes),
        transfers.allocate(flat.nbytes),
        transfers.stream(),
        transfers.event(),
    )
    there[:] = flat
    transfers.copy_in(one, there, stream)
    transfers.copy_within(two, one, flat.nbytes, stream)
    transfers.copy_out(back, two, stream)
    transfers.record(event, stream)
    transfers.synchronise(event)
    answer = back.copy().reshape(batch.shape)
    for thing in (stream, event):
        transfers.destroy(thing)
    for pointer in (one, two):
        transfers.free(pointer)
    for memory in (there, back):
        transfers.free_host(memory)
    return answer


@pytest.mark.gpu
@pytest.mark.slow
def test_ring_is_bitwise_the_synchronous_path_over_ten_thousand_random_slots(transfers: Transfers) -> None:
    with delayed(transfers) as ring:

        def ask(number: int) -> None:
            batch = batch_of(number)
            if number % 7 == 0:
                time.sleep(random.Random(number).random() / 1000)
            answer = ring.echo(batch)
            came, checksum = (int(value) for value in answer.reshape(-1)[:16].view(np.uint64))
            assert came == number, f"batch {number} got the answer of batch {came}"
            assert checksum == zlib.crc32(answer.reshape(-1)[16:]), f"batch {number} came back in pieces"
            assert np.array_equal(answer, batch if number % 100 else synchronous(transfers, batch))

        with ThreadPoolExecutor(6) as pool:
            for done in pool.map(ask, range(BATCHES)):
                assert done is None


class Forgetful:
    """A back-end that forgets one of a batch's waits: 0, the network's; 1, the copy out's; 2, the caller's."""

    def __init__(self, transfers: Transfers, forgotten: int) -> None:
        self._transfers, self._forgotten, self._waits = transfers, forgotten, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transfers, name)

    def wait(self, stream: Stream, event: Event) -> None:
        self._waits += 1
        if (self._waits - 1) % 2 != self._forgotten:
            self._transfers.wait(stream, event)

    def remember(self) -> None:
        self._forgotten = 3

    def synchronise(self, event: Event) -> None:
        if self._forgotten != 2:
            self._transfers.synchronise(event)


@pytest.mark.gpu
@pytest.mark.parametrize("forgotten", range(3))
def test_forgotten_wait_is_caught_on_the_device_too(transfers: Transfers, forgotten: int) -> None:
    """What should have been waited for is held up, so that the right order does not happen by accident."""
    broken: Any = Forgetful(transfers, forgotten)
    ring = Delayed(broken, 0)
    held_up = (ring.streams.copy_in, ring.streams.compute, ring.streams.copy_out)[forgotten]

    def ask_again_and_again() -> None:
        for number in range(200):
            for _ in range(20):
                transfers.copy_within(*ring.scratch, DELAY_BYTES, held_up)
            ring.echo(batch_of(number))

    try:
        with pytest.raises(RingError, match="wrong order"):
            ask_again_and_again()
    finally:
        broken.remember()
        ring.close()
