"""What every back-end of `engines.cuda.TRANSFERS` must keep. A check takes one and raises an `AssertionError`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from engines.base import EngineError
from engines.cuda.transfers import Bytes, Pointer, Transfers

SIZE = 1 << 20


def random_bytes(size: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


@contextmanager
def owned(transfers: Transfers, size: int = SIZE) -> Iterator[tuple[Bytes, Bytes, Pointer, Pointer, Any, Any, Any]]:
    """Page-locked memory twice, device memory twice, two streams and an event."""
    there, back = transfers.host(size), transfers.host(size)
    first, second = transfers.allocate(size), transfers.allocate(size)
    one, two, event = transfers.stream(), transfers.stream(), transfers.event()
    try:
        yield there, back, first, second, one, two, event
    finally:
        for stream in (one, two):
            transfers.record(event, stream)
            transfers.synchronise(event)
        for thing in (one, two, event):
            transfers.destroy(thing)
        for pointer in (first, second):
            transfers.free(pointer)
        for memory in (there, back):
            transfers.free_host(memory)


def check_bytes_come_back(transfers: Transfers) -> None:
    """What was copied in and across comes out again, every byte and no other."""
    with owned(transfers) as (there, back, first, second, one, _, event):
        there[:] = random_bytes(SIZE)
        for size in (1, 4097, SIZE):
            back[:] = 0
            transfers.copy_in(first, there[:size], one)
            transfers.copy_within(second, first, size, one)
            transfers.copy_out(back[:size], second, one)
            transfers.record(event, one)
            transfers.synchronise(event)
            assert np.array_equal(back[:size], there[:size]), f"{size} bytes came back changed"
            assert not back[size:].any(), f"more than {size} bytes came back"


def check_streams_wait_for_events(transfers: Transfers) -> None:
    """A stream that waits for an event sees what another did before it."""
    with owned(transfers) as (there, back, first, second, one, two, event):
        for round_number in range(20):
            there[:] = random_bytes(SIZE, round_number)
            transfers.copy_in(first, there, one)
            transfers.copy_within(second, first, SIZE, one)
            transfers.record(event, one)
            transfers.wait(two, event)
            transfers.copy_out(back, second, two)
            transfers.record(event, two)
            transfers.synchronise(event)
            assert np.array_equal(back, there), "a stream did not wait for an event of another"


def check_events_count_from_their_last_record(transfers: Transfers) -> None:
    """An event that is recorded again stands for the later moment; one that is waited for keeps the earlier for it."""
    with owned(transfers) as (there, back, first, _, one, two, event):
        there[:] = 1
        transfers.copy_in(first, there, one)
        transfers.record(event, one)
        transfers.wait(two, event)
        transfers.copy_out(back[: SIZE // 2], first, two)
        transfers.record(event, two)
        transfers.synchronise(event)
        assert (back[: SIZE // 2] == 1).all(), "waiting for an event forgot what it was recorded for"


def check_memory_is_locked_and_unlocked(transfers: Transfers) -> None:
    """Memory of others is copied from while it is locked; twice is refused, and it can be locked again."""
    memory = random_bytes(SIZE)
    address = int(memory.__array_interface__["data"][0])
    for _ in range(2):
        transfers.lock(memory)
        try:
            transfers.lock(memory)
        except EngineError:
            pass
        else:
            raise AssertionError("memory was locked twice")
        with owned(transfers) as (_, back, first, _, one, _, event):
            transfers.copy_in(first, memory, one)
            transfers.copy_out(back, first, one)
            transfers.record(event, one)
            transfers.synchronise(event)
            assert np.array_equal(back, memory), "locked memory came back changed"
        transfers.unlock(address)


def check_streams_are_none_of_the_default_ones(transfers: Transfers) -> None:
    """Every stream has a handle of its own that is not the default stream's (0, 1 and 2 have a meaning in CUDA)."""
    with owned(transfers) as (_, _, _, _, one, two, _):
        handles = (transfers.handle(one), transfers.handle(two))
        assert len({0, 1, 2, *handles}) == 5, f"the handles are {handles}"


def check_time_goes_forward(transfers: Transfers) -> None:
    """Between two events there is no negative time, and more around more work."""
    with owned(transfers) as (there, _, first, second, one, _, event):
        start = transfers.event()
        transfers.record(start, one)
        transfers.copy_in(first, there, one)
        for _ in range(100):
            transfers.copy_within(second, first, SIZE, one)
        transfers.record(event, one)
        transfers.synchronise(event)
        passed = transfers.elapsed_ms(start, event)
        transfers.destroy(start)
        assert passed > 0.0, f"{passed} ms passed"


def check_out_of_memory_is_said(transfers: Transfers) -> None:
    """More device memory than there is is refused, with what to do; a smaller wish is granted afterwards."""
    free, total = transfers.memory()
    assert 0 < free <= total, f"{free} of {total} bytes are free"
    refusal = "twice the memory of the device was granted"
    try:
        transfers.allocate(2 * total)
    except EngineError as error:
        refusal = str(error)
    assert "smaller --batch" in refusal, refusal
    check_bytes_come_back(transfers)


def check_memory_is_given_back(transfers: Transfers) -> None:
    """Device memory that was freed is free."""
    size = transfers.memory()[0] // 2
    for _ in range(20):
        transfers.free(transfers.allocate(size))


def check_device_is_described(transfers: Transfers) -> None:
    """The device says what it is, the same each time, and the back-end which package it is."""
    said = transfers.device()
    assert said == transfers.device()
    known = (said.name, said.compute_capability, said.cuda, transfers.version)
    assert all(known), f"something is missing: {known}"


def check_threads(transfers: Transfers) -> None:
    """Four threads at once, each with memory and streams of its own."""
    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(check_streams_wait_for_events, transfers) for _ in range(4)]:
            each.result()


def check_graph_runs_when_it_is_launched(transfers: Transfers) -> None:
    """What was captured runs at each launch and not before; or the back-end says that it has no such option."""
    with owned(transfers) as (there, back, first, second, one, _, event):

        def answer() -> int:
            transfers.copy_out(back, second, one)
            transfers.record(event, one)
            transfers.synchronise(event)
            assert (back == back[0]).all(), "a copy is not whole"
            return int(back[0])

        def put(value: int) -> None:
            there[:] = value
            transfers.copy_in(first, there, one)

        put(6)
        transfers.copy_within(second, first, SIZE, one)
        assert answer() == 6
        put(7)
        refusal = ""
        try:
            graph = transfers.capture(one, lambda: transfers.copy_within(second, first, SIZE, one))
        except EngineError as error:
            refusal = str(error)
        if refusal:
            assert "has no option" in refusal, f"refused without naming the option: {refusal}"
            return
        assert answer() == 6, "a graph ran before it was launched"
        for value in (7, 8):
            put(value)
            transfers.launch(graph, one)
            assert answer() == value, "a graph that was launched did not run"
        transfers.destroy(graph)


CHECKS = tuple(each for name, each in sorted(globals().items()) if name.startswith("check_"))
