"""Pictures per second through the whole line, and the share of the workers' time that went into engines."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.figure import Figure, run_qharness
from harness.demo.embedded import demo_recipe
from harness.report.build import report_from_store
from harness.store import Store

NOISES = "clean,gaussian_noise:3,impulse_noise:3,defocus_blur:3,brightness:3,jpeg_compression:3,resize"


def measure(folder: Path) -> Figure:
    """The embedded pictures under ten conditions on three versions, with one worker and with one per core."""
    recipe = demo_recipe()
    rows = []
    for workers in dict.fromkeys((1, os.cpu_count() or 1)):
        run = folder / f"throughput-{workers}"
        run_qharness(
            "run",
            recipe.model,
            *("--data", recipe.data, "--calibrate", recipe.calibrate, "--noise", NOISES),
            *("--workers", str(workers), "-o", run),
        )
        report = report_from_store(Store(run))
        timing = report.timing
        inferences = report.pictures * len(report.of_kind("condition")) * len(report.contenders)
        rows.append(
            {
                "workers": workers,
                "pictures_per_s": round(timing["pictures_per_second"], 2),
                "inferences_per_s": round(inferences / timing["wall_seconds"], 1),
                "engine_busy_percent": round(100 * timing["engine_busy_fraction"], 1),
            }
        )
    ratio = float(rows[-1]["pictures_per_s"]) / float(rows[0]["pictures_per_s"])
    return Figure(
        "Throughput of the whole line",
        rows,
        f"{rows[-1]['workers']} workers are {ratio:.2f} times as fast as one; engines are busy "
        f"{rows[-1]['engine_busy_percent']} % of the workers' time.",
    )
