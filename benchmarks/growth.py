"""What a run costs as it grows: linear in the pictures, less than linear in the versions, which share every picture.

Costs are those of measuring, without calibration, checks and reports, which happen once. Processor time is the
cost that neighbours on a shared machine change least; wall time stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.figure import Figure
from harness.demo.embedded import demo_recipe
from harness.demo.shapes import CLASSES, write_pictures
from harness.meter import usable_cores
from harness.progress import Progress
from harness.recipe import Recipe
from harness.session import execute
from harness.speed import Speed
from harness.store import Store

PICTURES = (100, 200, 400, 800)
FEW = 160  # pictures for each number of versions
NOISES = ("clean", "glass_blur:3", "elastic_transform:3", "zoom_blur:3", "snow:3", "jpeg_compression:3")
VERSIONS = (
    "ort-cpu:fp32",
    "ort-cpu:integer",
    "openvino:fp32",
    "openvino:integer",
    "ort-cpu:simulated",
    "openvino:simulated",
)
TO_ONE, TO_APART = "/ n times the first version", "/ the same versions in runs of their own"  # processor time
SEED = 2


@dataclass(frozen=True)
class Cost:
    """What measuring took.

    Args:
        pictures: how many were measured.
        wall_seconds: from the first to the last of them.
        cpu_seconds: processor time.
        prepared_share: of the work, what preparing pictures was, 0 to 1; the rest is inference.
    """

    pictures: int
    wall_seconds: float
    cpu_seconds: float
    prepared_share: float

    @property
    def cpu_ms_per_picture(self) -> float:
        """Processor time, under all conditions and versions."""
        return 1000 * self.cpu_seconds / self.pictures


def measure(folder: Path) -> Figure:
    """The demo's network under five corruptions and none, all cores at work."""
    pictures = folder / "growth-pictures"
    write_pictures(pictures, per_class=-(-max(PICTURES) // len(CLASSES)), seed=SEED, split="growth")
    recipe = replace(demo_recipe(), data=str(pictures), noise=NOISES)
    by_pictures = [
        _cost(replace(recipe, engines=VERSIONS[:2], limit=count), folder / f"growth-pictures-{count}")
        for count in PICTURES
    ]
    few = replace(recipe, limit=FEW)
    together = [
        _cost(replace(few, engines=VERSIONS[:count]), folder / f"growth-versions-{count}")
        for count in range(1, len(VERSIONS) + 1)
    ]
    rest = [
        _cost(replace(few, engines=(version,)), folder / f"growth-alone-{index}")
        for index, version in enumerate(VERSIONS[1:], 1)
    ]
    apart = np.cumsum([cost.cpu_seconds for cost in (together[0], *rest)])
    rows = [
        *(_row("pictures", cost.pictures, cost) for cost in by_pictures),
        *(
            {
                **_row("versions", count, cost),
                TO_ONE: round(cost.cpu_seconds / (count * together[0].cpu_seconds), 3),
                TO_APART: round(cost.cpu_seconds / float(apart[count - 1]), 3),
            }
            for count, cost in enumerate(together, 1)
        ),
    ]
    return Figure("Growth", rows, f"{_line(by_pictures)} {_sharing(rows, together[0])}")


def _cost(recipe: Recipe, folder: Path) -> Cost:
    execute(recipe, folder, Speed(workers=0, callers=usable_cores()), Progress())
    parts = Store(folder).timings()
    pictures, wall_seconds, cpu_seconds = (
        sum(part[name] for part in parts) for name in ("pictures", "wall_seconds", "cpu_seconds")
    )
    preparing, inferring = (
        sum(sum(part[name].values()) for part in parts) for name in ("stage_seconds", "engine_seconds")
    )
    return Cost(pictures, wall_seconds, cpu_seconds, preparing / (preparing + inferring))


def _row(what: str, count: int, cost: Cost) -> dict[str, str | float]:
    return {
        "what grows": what,
        "to": count,
        "pictures": cost.pictures,
        "wall_s": round(cost.wall_seconds, 2),
        "cpu_s": round(cost.cpu_seconds, 2),
        "cpu_ms_per_picture": round(cost.cpu_ms_per_picture, 1),
        TO_ONE: "-",
        TO_APART: "-",
    }


def _line(costs: Sequence[Cost]) -> str:
    """The straight line through the costs, and how far they are from it."""
    counts, seconds = (np.array([getattr(cost, name) for cost in costs]) for name in ("pictures", "cpu_seconds"))
    slope, start = np.polyfit(counts, seconds, 1)
    off = np.abs(seconds / (start + slope * counts) - 1).max()
    ratios = seconds[1:] / seconds[:-1]
    return (
        f"Twice the pictures cost {ratios.min():.2f} to {ratios.max():.2f} times the processor time: "
        f"{1000 * slope:.1f} ms for each picture beside {start:.1f} s, and no run is more than {100 * off:.0f} % off "
        f"that line."
    )


def _sharing(rows: Sequence[Mapping[str, str | float]], single: Cost) -> str:
    last = rows[-1]
    return (
        f"On the demo's network, where preparing pictures is {100 * single.prepared_share:.0f} % of the work for a "
        f"single version, {last['to']} versions on two engines cost {last[TO_APART]} of what they cost in runs of "
        f"their own: pictures are prepared once for all."
    )
