"""``corrupt``: corrupted copies of a data set, or a sheet of one picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from harness.commands.options import names
from harness.corrupt import FORMATS, JPEG, SEVERITIES, Outcome, Request, corrupt_pictures, corruption_steps
from harness.errors import HarnessError
from harness.progress import Progress
from harness.registry import NOISE_TABLE, missing_data
from harness.sheet import write_sheet
from harness.speed import Speed
from noise import NOISES
from noise.corruptions.overlays import use_folder

if TYPE_CHECKING:
    from harness.commands.options import Commands


def add(commands: Commands) -> None:
    """Describe the command."""
    corrupt = commands.add_parser("corrupt", help="corrupted copies of a data set, or a sheet of one picture")
    corrupt.add_argument(
        "target", metavar="DATA|PICTURE", help="a folder, .csv, .tar or .parquet files; with --sheet one picture"
    )
    corrupt.add_argument("-o", "--output", metavar="OUT", help="write OUT/NAME/SEVERITY/CLASS/FILE; continues")
    corrupt.add_argument("--sheet", metavar="FILE.png", help="draw every corruption of one picture side by side")
    corrupt.add_argument(
        "--noise", type=names, metavar="NAMES", help="NAME or NAME:SEVERITY, with commas; default: all"
    )
    severities = ",".join(map(str, SEVERITIES))
    corrupt.add_argument("--severity", default=severities, metavar="LIST", help="with commas; default: %(default)s")
    corrupt.add_argument("--format", choices=FORMATS, default=JPEG, help="png loses nothing; default: %(default)s")
    corrupt.add_argument("--seed", type=int, default=0, metavar="N", help="of every random draw; default: %(default)s")
    corrupt.add_argument("--size", type=int, default=224, metavar="PIXELS", help="of the result; default: %(default)s")
    corrupt.add_argument("--frost-overlays", metavar="DIR", help="ImageNet-C's photographs of frost")
    corrupt.add_argument("--workers", type=int, default=0, metavar="N", help="pictures at once; default: cores")
    corrupt.set_defaults(command=_corrupt, resumes=True)


def _corrupt(options: argparse.Namespace, console: Console) -> int:
    if bool(options.output) == bool(options.sheet):
        raise HarnessError("say what to draw: either -o OUT for a data set, or --sheet FILE.png for one picture")
    if options.frost_overlays:
        use_folder(Path(options.frost_overlays))
    noise = _all_corruptions(console) if options.noise is None else options.noise
    request = Request(noise, _severities(options.severity), options.seed, options.size)
    if options.sheet:
        write_sheet(Path(options.target), Path(options.sheet), request)
        console.print(f"Sheet: {Path(options.sheet).resolve()}", markup=False)
        return 0
    speed = Speed(options.workers)
    outcome = corrupt_pictures(options.target, Path(options.output), request, options.format, speed, Progress())
    console.print(_outcome_text(outcome), markup=False)
    return 0


def _all_corruptions(console: Console) -> tuple[str, ...]:
    """Every corruption that can be drawn here, and no stand-in of one; says which cannot, and why."""
    drawable: list[str] = []
    stand_ins = {row.stand_in: noise for noise, row in NOISES.items() if row.stand_in}
    for noise in NOISE_TABLE.names():
        if not corruption_steps(noise) or stand_ins.get(noise) in drawable:
            continue
        missing = missing_data(noise)
        if missing is None:
            drawable.append(noise)
        else:
            console.print(f"Left out: {noise}. {missing}", markup=False)
    return tuple(drawable)


def _severities(text: str) -> tuple[int, ...]:
    known = {str(severity): severity for severity in SEVERITIES}
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if part not in known:
            raise HarnessError(f"a severity is a whole number, {SEVERITIES[0]} to {SEVERITIES[-1]}; got {part!r}")
    return tuple(dict.fromkeys(known[part] for part in parts))


def _outcome_text(outcome: Outcome) -> str:
    drawn = outcome.pictures - outcome.failures
    lines = [f"{drawn} pictures x {outcome.conditions} conditions in {outcome.manifest.parent}"]
    if not outcome.changed:
        lines.append("Nothing was left to draw: all was there already.")
    if outcome.failures:
        lines.append(f"{outcome.failures} of {outcome.pictures} pictures failed, the first is {outcome.first_failure}")
    return "\n".join([*lines, f"Manifest: {outcome.manifest}"])
