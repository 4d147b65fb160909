"""GB/s between host and device: page-locked memory against memory as it comes, by every back-end that is here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.figure import Figure
from engines.base import EngineUnavailable
from engines.cuda import TRANSFERS
from engines.cuda.transfers import Bytes, Event, Pointer, Stream, Transfers, transfers_named

PICTURE_BYTES = 224 * 224 * 3
# A picture of levels, and 64 of them as levels and as float32.
SIZES = {"1 x uint8": PICTURE_BYTES, "64 x uint8": 64 * PICTURE_BYTES, "64 x float32": 256 * PICTURE_BYTES}
REPEATS = 20
WANTED = 2.0

Row = Mapping[str, str | int | float]


def measure(folder: Path) -> Figure:
    """Every back-end, size and direction.

    Raises:
        EngineUnavailable: there is no device, or nothing to reach it with.
    """
    del folder
    rows: list[Row] = []
    missing: list[str] = []
    for name in TRANSFERS:
        try:
            rows += rows_of(transfers_named(name))
        except EngineUnavailable as error:
            missing.append(str(error))
    if not rows:
        raise EngineUnavailable("; ".join(missing))
    least = min(float(row["locked / pageable"]) for row in rows if row["bytes"] == max(SIZES.values()))
    verdict = (
        f"Page-locked memory is at least {least} times as fast as pageable for a batch of 64 in float32; wanted: "
        f"{WANTED:g}. Medians of {REPEATS} copies, from the call to the host's knowledge that it is done. "
        f"'registered' is memory of a worker, locked after it was made."
    )
    return Figure("Transfers", rows, " ".join([verdict, *missing]))


def rows_of(transfers: Transfers) -> list[Row]:
    """One row for each size and direction."""
    device = transfers.device()
    rows: list[Row] = []
    for what, size in SIZES.items():
        with _memory(transfers, size) as (kinds, pointer, stream, event):
            for direction, copy in (("in", _copy_in), ("out", _copy_out)):
                rates = {
                    kind: size / _seconds(transfers, memory, (pointer, stream, event), copy) / 1e9
                    for kind, memory in kinds.items()
                }
                rows.append(
                    {
                        "device": device.name,
                        "back-end": transfers.version,
                        "batch": what,
                        "bytes": size,
                        "direction": direction,
                        **{f"{kind} GB/s": round(rate, 2) for kind, rate in rates.items()},
                        "locked / pageable": round(rates["locked"] / rates["pageable"], 2),
                    }
                )
    return rows


Copy = Callable[[Transfers, Bytes, Pointer, Stream], None]


def _copy_in(transfers: Transfers, memory: Bytes, pointer: Pointer, stream: Stream) -> None:
    transfers.copy_in(pointer, memory, stream)


def _copy_out(transfers: Transfers, memory: Bytes, pointer: Pointer, stream: Stream) -> None:
    transfers.copy_out(memory, pointer, stream)


def _seconds(transfers: Transfers, memory: Bytes, place: tuple[Pointer, Stream, Event], copy: Copy) -> float:
    """The median time of a copy. Pageable memory is staged by the host, so the clock is the host's."""
    pointer, stream, event = place
    times = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        copy(transfers, memory, pointer, stream)
        transfers.record(event, stream)
        transfers.synchronise(event)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


@contextmanager
def _memory(transfers: Transfers, size: int) -> Iterator[tuple[dict[str, Bytes], Pointer, Stream, Event]]:
    """Memory of each kind, every page of it touched, and a place on the device."""
    pageable, registered, locked = np.ones(size, np.uint8), np.ones(size, np.uint8), transfers.host(size)
    locked[:] = 1
    transfers.lock(registered)
    pointer, stream, event = transfers.allocate(size), transfers.stream(), transfers.event()
    try:
        yield {"pageable": pageable, "registered": registered, "locked": locked}, pointer, stream, event
    finally:
        transfers.free(pointer)
        transfers.unlock(int(registered.__array_interface__["data"][0]))
        transfers.free_host(locked)
        for thing in (stream, event):
            transfers.destroy(thing)
