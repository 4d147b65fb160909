"""``run``, ``merge``, ``plan`` and ``demo``: the straight line, its cost, and the whole line on what is embedded."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from harness.commands.options import add_output, add_recipe, add_speed, recipe_from_options, speed_from_options
from harness.cost import cost_of, cost_report
from harness.demo.embedded import demo_recipe
from harness.errors import HarnessError, NothingToMeasure
from harness.extent import WHOLE, Extent, shard_from_text
from harness.merge import merge
from harness.plan import plan
from harness.progress import Progress
from harness.quantities import Evidence
from harness.recipe import Recipe
from harness.report.gate import terminal_verdict
from harness.report.terminal import terminal_report
from harness.report.write import HTML
from harness.rules import read_rules
from harness.session import default_folder, execute
from harness.store import Store
from harness.until import FORMS, StoppingRule, UntilGate, until_from_text
from harness.verdict import judge

if TYPE_CHECKING:
    from harness.commands.options import Commands

EVERYTHING = Extent()


def add(commands: Commands) -> None:
    """Describe the commands."""
    demo = commands.add_parser("demo", help="the whole line on the embedded network and pictures")
    add_output(demo)
    add_speed(demo)
    demo.set_defaults(command=_demo, resumes=True)

    run = commands.add_parser("run", help="measure a model; continues where an earlier run stopped")
    add_recipe(run)
    add_output(run)
    add_speed(run)
    forms = "; ".join(f"{form}: {meaning}" for form, meaning in FORMS.items())
    run.add_argument("--until", metavar="RULE", help=f"stop when enough is known, such as ci<0.5. {forms}")
    run.add_argument("--rules", metavar="FILE", help="of --until gate, in TOML; default: built in")
    run.add_argument("--shard", metavar="I/N", help="measure every N-th part here; qharness merge joins the folders")
    run.add_argument("--ray", metavar="ADDRESS", help="measure on a Ray cluster; local: on one of this machine's own")
    run.set_defaults(command=_run, resumes=True)

    merged = commands.add_parser("merge", help="join the shards of a run, and prove that nothing is missing or double")
    merged.add_argument("shards", nargs="+", metavar="SHARD", help="the folders of run --shard")
    merged.add_argument("-o", "--output", metavar="RUN", required=True, help="the folder of the whole run")
    merged.set_defaults(command=_merge)

    planned = commands.add_parser("plan", help="the grid, its size and its cost; measures nothing")
    add_recipe(planned)
    add_speed(planned)
    planned.set_defaults(command=_plan)


def _run(options: argparse.Namespace, console: Console) -> int:
    extent = Extent(
        _until(options),
        shard_from_text(options.shard) if options.shard else WHOLE,
        options.ray or "",
    )
    return _measure(recipe_from_options(options), options, console, extent)


def _until(options: argparse.Namespace) -> StoppingRule | None:
    until = until_from_text(options.until) if options.until else None
    if not options.rules:
        return until
    if not isinstance(until, UntilGate):
        raise HarnessError("--rules are for --until gate; add it, or judge the run afterwards with qharness gate")
    return UntilGate(read_rules(Path(options.rules)))


def _demo(options: argparse.Namespace, console: Console) -> int:
    console.print("The embedded network on the embedded pictures: synthetic stand-ins for ImageNet.\n")
    code = _measure(demo_recipe(), options, console)
    command = "qharness" if shutil.which("qharness") else sys.argv[0]
    console.print(f"Next, your own model:  {command} run MODEL.onnx --data FOLDER_WITH_ONE_FOLDER_PER_CLASS")
    return code


def _plan(options: argparse.Namespace, console: Console) -> int:
    made = plan(recipe_from_options(options))
    speed = speed_from_options(options)
    console.print(cost_report(made, cost_of(made, speed, Progress()), speed))
    return 0


def _merge(options: argparse.Namespace, console: Console) -> int:
    folder = Path(options.output)
    console.print(terminal_report(merge([Path(shard) for shard in options.shards], folder)))
    console.print(f"\nReport: {(folder / HTML).resolve()}")
    return 0


def _measure(recipe: Recipe, options: argparse.Namespace, console: Console, extent: Extent = EVERYTHING) -> int:
    folder = Path(options.output) if options.output else default_folder(recipe, extent.shard)
    before = _stamps(folder)
    try:
        report = execute(recipe, folder, speed_from_options(options), Progress(), extent)
    except NothingToMeasure as nothing:
        console.print(f"{nothing}.", markup=False)
        return 0
    console.print(terminal_report(report))
    if isinstance(extent.until, UntilGate):
        console.print(terminal_verdict(judge(extent.until.rules, Evidence(report)), report))
        console.print(f"qharness gate {folder} says the same with an exit code.", markup=False)
    if before and before == _stamps(folder):
        console.print("\nNothing was left to measure: this run had all it needs. Delete its folder to measure again.")
    console.print(f"\nReport: {(folder / HTML).resolve()}")
    return 0


def _stamps(folder: Path) -> dict[str, int]:
    """Parts, and when each was written."""
    return {part.name: part.stat().st_mtime_ns for part in Store(folder).parts()}
