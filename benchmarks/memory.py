"""Peak memory for 500 and for 5,000 pictures: it must not grow with their number."""

from __future__ import annotations

from pathlib import Path

from benchmarks.figure import Figure, run_qharness
from harness.demo.embedded import demo_recipe
from harness.demo.shapes import CLASSES, write_pictures

SIZES = (500, 5000)
STAFFS = ((0, 2), (2, 1))  # workers and callers; fixed, for a longer run would choose otherwise than a shorter one
SEED = 1


def measure(folder: Path) -> Figure:
    """One corruption and the clean pictures on three versions, for each size, with worker processes and without."""
    pictures = folder / "memory-pictures"
    write_pictures(pictures, per_class=-(-max(SIZES) // len(CLASSES)), seed=SEED, split="memory")
    recipe = demo_recipe()
    rows: list[dict[str, float]] = []
    for workers, callers in STAFFS:
        for size in SIZES:
            run = run_qharness(
                "run",
                recipe.model,
                *("--data", pictures, "--calibrate", recipe.calibrate, "--noise", "clean,gaussian_noise:3"),
                *("--workers", str(workers), "--callers", str(callers)),
                *("--limit", str(size), "-o", folder / f"memory-{workers}-{size}"),
            )
            rows.append(
                {
                    "worker processes": workers,
                    "pictures": size,
                    "peak_MiB": round(run.peak_mib, 1),
                    "wall_s": round(run.wall_seconds, 1),
                }
            )
    few, many, few_with, many_with = (row["peak_MiB"] for row in rows)
    return Figure(
        "Peak memory",
        rows,
        f"Ten times the pictures take {many / few:.3f} times the memory, and {many_with / few_with:.3f} times with "
        f"worker processes, whose memory is counted too; the aim is between 0.95 and 1.05.",
    )
