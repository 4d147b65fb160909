"""What the harness does around one call of an engine, with an engine that answers at once: microseconds per batch.

"call" is the door through which every call goes: the feeds and the outputs are checked, and the time is taken.
"measure" is all that a caller does with a batch that is ready: the call, the scores of the answers, and the records.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmarks.figure import Figure
from benchmarks.null_engine import use_null_engine
from benchmarks.resnet50 import CLASSES, with_classes, write_resnet50
from engines.base import call
from harness.batches import Bundle, Preparer
from harness.demo.embedded import demo_recipe
from harness.line import Line
from harness.meter import Meter
from harness.plan import Plan, plan
from harness.prepare import Contender, prepare
from harness.progress import Progress
from harness.recipe import Recipe

BATCHES = (1, 4, 64)
REPEATS = 1000
WANTED_US = 100

Row = dict[str, str | int | float]


def measure(folder: Path) -> Figure:
    """Batches of several sizes, with the thousand outputs of a network for ImageNet."""
    rows = overhead_rows(folder, BATCHES)
    largest = rows[-1]
    return Figure(
        "Overhead",
        rows,
        f"Around a call of an engine with {largest['pictures']} pictures the harness takes {largest['call us']} "
        f"microseconds, and with scores and records {largest['measure us']}; wanted: under {WANTED_US}. Medians of "
        f"{REPEATS:,} calls of an engine with {CLASSES:,} outputs that answers at once, on one thread.",
    )


def overhead_rows(folder: Path, batches: tuple[int, ...]) -> list[Row]:
    """One row for each size of a batch, in microseconds."""
    use_null_engine()
    data = demo_recipe().data
    model = with_classes(write_resnet50(folder / "overhead.onnx"), Path(data)).path
    made = plan(Recipe(model=str(model), data=data, noise=("clean",), engines=("null:fp32",)))
    contenders = prepare(made, folder / "overhead", Progress())
    return [_row(made, contenders, pictures) for pictures in batches]


def _row(made: Plan, contenders: tuple[Contender, ...], pictures: int) -> Row:
    preparation = made.preparation(pictures)
    bundle = Bundle(0, made.scored.samples[:pictures])
    batch = next(iter(Preparer(preparation).batches(bundle, preparation.place)))
    (contender,) = contenders
    with closing(contender.open(pictures)) as engine, closing(Line(made, contenders, pictures, Meter())) as line:
        feeds = {contender.artifact.input.name: batch.inputs}
        call_us = _microseconds(lambda: call(engine, feeds))
        measure_us = _microseconds(lambda: line.measure(bundle, batch))
    return {
        "pictures": pictures,
        "call us": round(call_us, 1),
        "measure us": round(measure_us, 1),
        "measure us / picture": round(measure_us / pictures, 1),
    }


def _microseconds(job: Callable[[], object]) -> float:
    """The median of many times."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        job()
        times.append(time.perf_counter() - started)
    return 1e6 * float(np.median(times))
