"""Peak memory for 200 and for 2,000 pictures: it must not grow with their number."""

from __future__ import annotations

from pathlib import Path

from benchmarks.figure import Figure, run_qharness
from harness.demo.embedded import demo_recipe
from harness.demo.shapes import CLASSES, write_pictures

SIZES = (200, 2000)
SEED = 1


def measure(folder: Path) -> Figure:
    """One corruption and the clean pictures on three versions, for each size."""
    pictures = folder / "memory-pictures"
    write_pictures(pictures, per_class=-(-max(SIZES) // len(CLASSES)), seed=SEED, split="memory")
    recipe = demo_recipe()
    rows = []
    for size in SIZES:
        run = run_qharness(
            "run",
            recipe.model,
            *("--data", pictures, "--calibrate", recipe.calibrate, "--noise", "clean,gaussian_noise:3"),
            *("--limit", str(size), "-o", folder / f"memory-{size}"),
        )
        rows.append({"pictures": size, "peak_MiB": round(run.peak_mib, 1), "wall_s": round(run.wall_seconds, 1)})
    growth = float(rows[-1]["peak_MiB"]) / float(rows[0]["peak_MiB"])
    return Figure(
        "Peak memory",
        rows,
        f"Ten times the pictures take {growth:.2f} times the memory; the aim is 1.",
    )
