"""``bench``: latency and throughput as deployed."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from harness.bench import PREPARATION, Load, Measurement, bench
from harness.commands.options import add_output, add_recipe, recipe_from_options
from harness.device_timing import device_bench
from harness.plan import plan
from harness.prepare import prepare
from harness.progress import Progress
from harness.session import default_folder, locked_store

if TYPE_CHECKING:
    from harness.commands.options import Commands

NOTE = (
    "From the encoded picture to the answer, corruption itself left out. 95 % intervals; shorter than MLPerf's ten "
    f"minutes, so no submission. '{PREPARATION}' decodes, resizes and crops for an engine that answers at once."
)


def add(commands: Commands) -> None:
    """Describe the command."""
    command = commands.add_parser("bench", help="latency and throughput as deployed, in the scenarios of MLPerf")
    add_recipe(command)
    add_output(command)
    default = Load()
    command.add_argument(
        "--seconds", type=float, default=default.seconds, metavar="S", help="for each number; default: %(default)s"
    )
    command.add_argument(
        "--streams",
        type=int,
        default=default.streams,
        metavar="N",
        help="pictures in one query of multi-stream and offline; default: %(default)s",
    )
    command.add_argument(
        "--callers", type=int, default=default.callers, metavar="N", help="of offline; default: one per core"
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(command=_bench)


def _bench(options: argparse.Namespace, console: Console) -> int:
    load = Load(options.seconds, options.streams, options.callers)
    recipe = recipe_from_options(options)
    clean = options.noise is None and Path(options.target).suffix != ".toml"
    made = plan(replace(recipe, noise=("clean",)) if clean else recipe)
    progress = Progress()
    # Where a run of this recipe is: what is measured here is what runs there, and is quantised and built once.
    with locked_store(recipe, Path(options.output) if options.output else default_folder(recipe)) as store:
        contenders = prepare(made, store.artifacts, progress)
        measured = bench(made, contenders, load, progress)
        on_device = device_bench(contenders, load, progress)
    if options.json:
        print(json.dumps([each.describe() for each in (*measured, *on_device)], indent=1))
    else:
        groups: dict[tuple[str, str], list[Measurement]] = {}
        for each in measured:
            groups.setdefault((each.condition, each.scenario), []).append(each)
        for group in groups.values():
            console.print(_table(group))
        console.print(NOTE)
        for _, rows in groupby(on_device, key=lambda each: each.contender):
            console.print(_device_table(list(rows)))
    return 0


def _device_table(measured: list[Measurement]) -> Table:
    """What one version's device does with a batch."""
    first = measured[0]
    title = f"{first.contender} on the device, {first.n:,} calls, input page-locked"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for heading in ("value", "95 %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in measured:
        ends = ["-" if end is None else f"{end:.3f}" for end in (each.low, each.high)]
        table.add_row(each.metric, f"{each.value:.3f}", " to ".join(ends))
    return table


def _table(measured: list[Measurement]) -> Table:
    """One scenario under one condition."""
    first = measured[0]
    table = Table(title=f"{first.scenario}, {first.condition}: {first.metric}", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("version", no_wrap=True)
    for title in ("value", "95 %", "queries", "engine ms"):
        table.add_column(title, justify="right", no_wrap=True)
    for each in measured:
        low, high = ("-" if end is None else f"{end:.2f}" for end in (each.low, each.high))
        numbers = (f"{each.value:.2f}", f"{low} to {high}", f"{each.n:,}", f"{each.engine_ms:.2f}")
        table.add_row(each.contender, *numbers)
    return table
