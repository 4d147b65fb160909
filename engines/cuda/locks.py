"""Page locks: memory of others, such as the slots of worker processes, from which the device copies directly."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy.typing as npt

from engines.cuda.transfers import Bytes, Transfers


class PageLocks:
    """The ranges that one process has locked, for all its engines: CUDA refuses to lock the same memory twice."""

    def __init__(self, transfers: Transfers) -> None:
        self._transfers = transfers
        self._ranges: dict[int, int] = {}
        # A collection inside `lock` may free an older array, and with it enter `_unlock` in the same thread.
        self._changing = threading.RLock()

    def lock(self, memory: Bytes) -> None:
        """Lock memory until the array is gone, and with it every view of it: no copy can be under way then."""
        start = address_of(memory)
        with self._changing:
            if start in self._ranges:
                return
            self._transfers.lock(memory)
            self._ranges[start] = start + memory.nbytes
        weakref.finalize(memory, self._unlock, start).atexit = False

    def covers(self, array: npt.NDArray[Any]) -> bool:
        """Whether all of an array lies in one piece in locked memory."""
        start = address_of(array)
        end = start + array.nbytes
        ranges = dict(self._ranges)
        return array.flags.c_contiguous and any(low <= start and end <= high for low, high in ranges.items())

    def _unlock(self, start: int) -> None:
        with self._changing:
            del self._ranges[start]
            self._transfers.unlock(start)


def address_of(array: npt.NDArray[Any]) -> int:
    """Where the array's first element is."""
    return int(array.__array_interface__["data"][0])
