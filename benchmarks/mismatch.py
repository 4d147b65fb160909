"""Whether the ranking of ``qharness mismatch`` holds: two networks, each on two halves of the photographs.

Needs real models and pictures in ``QHARNESS_DATA``. The halves share no picture, so nothing but the truth makes them
agree.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.figure import Figure
from harness.mismatch import Mismatch, mismatch_from_store, mismatch_recipe
from harness.progress import Progress
from harness.recipe import Recipe
from harness.session import execute
from harness.speed import Speed
from harness.store import Store

MODELS = {"resnet18": "imagenet", "mobilenetv2_tf": "tensorflow"}
TOP = 10

Row = Mapping[str, str | int | float]


def measure(folder: Path) -> Figure:
    """Rank correlations between the halves, and what each half found worst."""
    data = Path(os.environ["QHARNESS_DATA"])
    halves = _halves(data / "imagenet" / "photos", folder)
    rows: list[Row] = []
    for model, preset in MODELS.items():
        found, minutes = [], []
        for number, half in enumerate(halves):
            recipe = Recipe(
                model=str(data / "models" / f"{model}.onnx"),
                data=str(half),
                calibrate=str(data / "imagenet" / "val227"),
                preprocess=preset,
            )
            store = Store(folder / f"{model}-{number}")
            started = time.perf_counter()
            execute(mismatch_recipe(recipe), store.folder, Speed(), Progress())
            minutes.append((time.perf_counter() - started) / 60)
            found.append(mismatch_from_store(store))
        rows += _rows(model, found, minutes)
    cost = min(float(row["rank correlation"]) for row in rows if row["ranked by"] == "accuracy")
    flips = min(float(row["rank correlation"]) for row in rows if row["ranked by"] == "flips")
    nearest = sum("nearest" in str(row[f"worst resize, half {half}"]) for row in rows for half in (1, 2))
    return Figure(
        "The ranking of preprocessing swaps on two halves of the photographs, integer version",
        rows,
        f"Rankings of the two halves correlate with at least {cost:.2f} by accuracy and {flips:.2f} by flipped "
        f"predictions (Spearman). A nearest-neighbour resize is the worst of the resizes in "
        f"{nearest} of {2 * len(rows)} rankings{'' if nearest == 2 * len(rows) else ', not in all'}.",
    )


def _halves(photos: Path, folder: Path) -> list[Path]:
    """Two tables of pictures; every other class goes into the second."""
    tables = []
    classes = sorted(path for path in photos.iterdir() if path.is_dir())
    for half in (0, 1):
        table = folder / f"half{half}.csv"
        with table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "label"))
            for each in classes[half::2]:
                writer.writerows((str(path.resolve()), each.name) for path in sorted(each.iterdir()))
        tables.append(table)
    return tables


def _rows(model: str, found: Sequence[Mismatch], minutes: Sequence[float]) -> list[Row]:
    rows: list[Row] = []
    for ranked_by in ("accuracy", "flips"):
        costs = [_costs(each, ranked_by) for each in found]
        orders = [sorted(each, key=lambda name, each=each: -each[name]) for each in costs]  # type: ignore[misc]
        # What did nothing to either half would agree without saying anything.
        both = set(found[0].unchanged) & set(found[1].unchanged)
        names = [name for name in costs[0] if name not in both]
        first, second = (_ranks(np.array([each[name] for name in names])) for each in costs)
        rows.append(
            {
                "model": model,
                "ranked by": ranked_by,
                "pictures": " + ".join(str(each.pictures) for each in found),
                "swaps": len(names),
                "rank correlation": round(float(np.corrcoef(first, second)[0, 1]), 3),
                f"in both first {TOP}": len(set(orders[0][:TOP]) & set(orders[1][:TOP])),
                **{f"worst resize, half {i}": _worst(order, costs[i - 1]) for i, order in enumerate(orders, start=1)},
                "minutes": " + ".join(f"{each:.1f}" for each in minutes),
            }
        )
    return rows


def _costs(found: Mismatch, ranked_by: str) -> dict[str, float]:
    """Swap -> points of accuracy lost, or percent of predictions flipped; 0 of either where it did nothing."""
    effects = {swap.name: swap.effects[found.shipped] for swap in found.swaps}
    idle = dict.fromkeys(found.unchanged, 0.0)
    if ranked_by == "accuracy":
        return {name: -100 * (effect.difference.value or 0) for name, effect in effects.items()} | idle
    return {name: 100 * (effect.flipped.value or 0) for name, effect in effects.items()} | idle


def _worst(order: Sequence[str], costs: Mapping[str, float]) -> str:
    name = next(each for each in order if each.startswith("resize:"))
    return f"{name.removeprefix('resize:')} ({costs[name]:.1f})"


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks from 1, equal values with the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((2 * last - counts + 1) / 2)[inverse]
