"""A figure: measured values with units, and how a command of qharness is measured from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

KIB_PER_MIB = 1024
LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Figure:
    """One benchmark's result.

    Args:
        title: what was measured.
        rows: one mapping per line, the same keys in all, units in the keys.
        verdict: the sentence that the rows add up to.
    """

    title: str
    rows: Sequence[Mapping[str, str | int | float]]
    verdict: str


@dataclass(frozen=True)
class Measurement:
    """What the operating system says of one finished command.

    Args:
        wall_seconds: from its start to its end.
        cpu_seconds: processor time, its own and that of the processes that it started.
        peak_mib: the most memory that it and the processes it started had at once, as seen ten times a second: their
            own and what they share, counted once. Pages of files, such as the code of libraries, are left out: how
            much of them counts for whom depends on what else runs on the machine.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_mib: float


def run_qharness(*arguments: str | Path) -> Measurement:
    """Run one command of qharness to its end, its output thrown away.

    Raises:
        RuntimeError: it did not exit with 0.
    """
    command = [sys.executable, "-m", "harness.cli", *map(str, arguments)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        peak = pool.submit(_peak_mib, process.pid, over)
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall_seconds = time.perf_counter() - started
        finally:
            over.set()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}")
    return Measurement(wall_seconds, usage.ru_utime + usage.ru_stime, peak.result())


def _peak_mib(process: int, over: threading.Event) -> float:
    """The most memory of a process and all below it, until it is over."""
    peak = 0.0
    while not over.wait(LOOK_SECONDS):
        peak = max(peak, sum(_own_kib(each) for each in _with_descendants(process)) / KIB_PER_MIB)
    return peak


def _with_descendants(process: int) -> list[int]:
    found = [process]
    for each in found:  # which grows meanwhile
        with suppress(OSError):  # it has ended meanwhile
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _own_kib(process: int) -> int:
    """Resident memory that is no file's; what several processes share counts for each in part (proc(5), ``Pss``)."""
    with suppress(OSError):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return 0
