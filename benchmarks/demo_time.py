"""How long the demo's job takes, from the command to the report."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from benchmarks.figure import Figure, run_qharness

RUNS = 3


def measure(folder: Path) -> Figure:
    """The demo, ``RUNS`` times, each in a new folder."""
    runs = [run_qharness("demo", "-o", folder / f"demo-{index}") for index in range(RUNS)]
    rows = [
        {
            "run": index,
            "wall_s": round(run.wall_seconds, 1),
            "cpu_s": round(run.cpu_seconds, 1),
            "peak_MiB": round(run.peak_mib),
        }
        for index, run in enumerate(runs, start=1)
    ]
    middle = median(run.wall_seconds for run in runs)
    return Figure("Time of the demo", rows, f"The demo takes {middle:.1f} s (median of {RUNS}); the aim is under 60 s.")
