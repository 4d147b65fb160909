"""Cost: how much work a plan is, counted exactly, and how long it would take, measured on a few pictures."""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.plan import Plan
from harness.prepare import prepare
from harness.progress import Progress
from harness.run import Line, Speed
from harness.samples import SampleSet

TRIAL_PICTURES = 3
TRIAL_CALIBRATION = 8


@dataclass(frozen=True)
class Cost:
    """The work of one plan.

    Args:
        stage_runs: stage -> how often a step of it runs; decode and resize are shared by all corruptions.
        inferences: pictures through engines.
        seconds_per_picture: of one worker, for a picture under all conditions, on all versions.
    """

    stage_runs: dict[str, int]
    inferences: int
    seconds_per_picture: float


def cost_of(made: Plan, speed: Speed, progress: Progress) -> Cost:
    """Count the work, and time a few pictures. Files are made in a temporary folder from few pictures."""
    few = replace(
        made,
        calibration=SampleSet(made.calibration.folder, made.calibration.samples[:TRIAL_CALIBRATION]),
    )
    with tempfile.TemporaryDirectory() as folder:
        contenders = prepare(few, Path(folder), progress)
        with closing(Line(few, contenders, speed.batch)) as line:
            line.measure(few.scored.samples[0])  # the first picture pays for memory and lazy set-up
            trial = few.scored.samples[:TRIAL_PICTURES]
            started = time.perf_counter()
            for sample in trial:
                line.measure(sample)
            seconds = (time.perf_counter() - started) / len(trial)
    pictures = len(made.scored.samples)
    return Cost(
        stage_runs={stage: pictures * count for stage, count in made.tree().step_counts().items()},
        inferences=pictures * len(made.distinct) * len(made.versions),
        seconds_per_picture=seconds,
    )


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
    work.add_row("pictures to calibrate on", f"{len(made.calibration.samples):,}")
    work.add_row("conditions", f"{len(made.conditions):,} ({len(made.distinct):,} distinct)")
    work.add_row("versions", ", ".join(":".join(pair) for pair in made.versions))
    for stage, count in cost.stage_runs.items():
        work.add_row("corruptions" if stage == "sensor" else f"{stage} steps", f"{count:,}")
    work.add_row("inferences", f"{cost.inferences:,}")
    total = cost.seconds_per_picture * len(made.scored.samples) / speed.threads
    sentence = (
        f"About {_duration(total)} with {speed.threads} workers: {1000 * cost.seconds_per_picture:.0f} ms per "
        f"picture and worker, measured on {TRIAL_PICTURES} pictures."
    )
    warnings = (Text(f"{finding.severity}: {finding.message}", style="yellow") for finding in made.findings)
    return Group(grid, work, Text(sentence), *warnings)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
