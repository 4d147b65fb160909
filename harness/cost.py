"""Cost: how much work a plan is, counted exactly, and how long it would take, measured on a few pictures."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.batches import Bundle, Preparer
from harness.line import lines_from_contenders
from harness.meter import Meter
from harness.plan import Plan
from harness.prepare import prepare
from harness.progress import Progress
from harness.samples import Sample, SampleSet
from harness.speed import Speed

TRIALS_PER_CORE = 2
TRIAL_CALIBRATION = 8


@dataclass(frozen=True)
class Cost:
    """The work of one plan.

    Args:
        stage_runs: stage -> how often a step of it runs; decode and resize are shared by all corruptions.
        inferences: pictures through engines.
        trial_pictures: how many pictures were timed, all workers at work.
        measure_seconds: all scored pictures, at the pace of the trial.
        prepare_seconds: calibration and writing of quantised files, at the pace of a few pictures.
    """

    stage_runs: dict[str, int]
    inferences: int
    trial_pictures: int
    measure_seconds: float
    prepare_seconds: float


def cost_of(made: Plan, speed: Speed, progress: Progress) -> Cost:
    """Count the work, and time a few pictures. Files are made in a temporary folder from few pictures."""
    calibration = made.calibration.samples
    trial_calibration = calibration.samples[:TRIAL_CALIBRATION]
    few = replace(
        made,
        calibration=replace(made.calibration, samples=SampleSet(calibration.source, trial_calibration)),
    )
    pictures = len(made.scored.samples)
    trial = made.scored.samples[: TRIALS_PER_CORE * speed.threads]
    preparation = made.preparation(speed.batch)
    preparer = Preparer(preparation)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(speed.threads) as pool, ExitStack() as stack:
        started = time.perf_counter()
        contenders = prepare(few, Path(folder), progress)
        prepare_seconds = (time.perf_counter() - started) * len(calibration.samples) / max(1, len(trial_calibration))
        lines = lines_from_contenders(few, contenders, speed.batch, Meter())
        for line in lines:
            stack.enter_context(closing(line))

        def measure(sample: Sample) -> None:
            bundle = Bundle(0, (sample,))
            for batch in preparer.batches(bundle, preparation.place):
                for line in lines:
                    line.measure(bundle, batch)

        measure(trial[0])  # the first picture pays for memory and lazy set-up
        started = time.perf_counter()
        list(pool.map(measure, trial))
        seconds = time.perf_counter() - started
    return Cost(
        stage_runs={stage: pictures * count for stage, count in _step_counts(made).items()},
        inferences=pictures * len(made.distinct) * len(made.versions),
        trial_pictures=len(trial),
        measure_seconds=seconds * pictures / len(trial),
        prepare_seconds=prepare_seconds,
    )


def _step_counts(made: Plan) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for tree in made.preparation(1).trees().values():
        counts.update(tree.step_counts())
    return counts


def cost_report(made: Plan, cost: Cost, speed: Speed) -> Group:
    """The grid and its cost for a terminal."""
    grid = Table(title="Grid", title_justify="left", box=SIMPLE_HEAD)
    grid.add_column("noise")
    grid.add_column("settings")
    for noise in dict.fromkeys(condition.noise for condition in made.conditions):
        settings = [c.setting for c in made.conditions if c.noise == noise]
        grid.add_row(noise, ", ".join(settings) or "-")
    work = Table(title="Work", title_justify="left", box=SIMPLE_HEAD)
    work.add_column("what")
    work.add_column("count", justify="right")
    work.add_row("pictures scored", f"{len(made.scored.samples):,}")
    work.add_row("pictures to calibrate on", f"{len(made.calibration.samples.samples):,}")
    work.add_row("conditions", f"{len(made.conditions):,} ({len(made.distinct):,} distinct)")
    work.add_row("versions", ", ".join(":".join(pair) for pair in made.versions))
    for stage, count in cost.stage_runs.items():
        work.add_row("corruptions" if stage == "sensor" else f"{stage} steps", f"{count:,}")
    work.add_row("inferences", f"{cost.inferences:,}")
    sentence = (
        f"About {_duration(cost.measure_seconds)} of measuring on {speed.threads} cores, judged by "
        f"{cost.trial_pictures} pictures, after about {_duration(cost.prepare_seconds)} of calibration."
    )
    warnings = (Text(f"{finding.severity}: {finding.message}", style="yellow") for finding in made.findings)
    return Group(grid, work, Text(sentence), *warnings)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
