"""A figure: measured values with units, and how a command of qharness is measured from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


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
    """What the operating system says of one finished command."""

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
    _, status, usage = os.wait4(process.pid, 0)
    wall_seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}")
    return Measurement(wall_seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
