"""``calibrate``: the ranges of a model's activations, as a file that can be written for any target."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from exporters import METHODS
from exporters.base import write_calibration
from harness.calibrate import calibration_findings, calibration_from_job
from harness.commands.files import check_output, job_for_file
from harness.commands.options import add_model, names, recipe_from_options
from harness.progress import Progress

if TYPE_CHECKING:
    from harness.commands.options import Commands


def add(commands: Commands) -> None:
    """Describe the command."""
    calibrate = commands.add_parser(
        "calibrate", help="measure the ranges of a model's activations, once for all targets"
    )
    add_model(calibrate)
    calibrate.add_argument(
        "--data", metavar="DIR", required=True, help="pictures to calibrate on, one folder per class"
    )
    calibrate.add_argument("--method", metavar="NAME", help=f"one of {', '.join(METHODS)}; a number may follow a colon")
    calibrate.add_argument("--pictures", type=int, default=100, metavar="N", help="at most; default: %(default)s")
    calibrate.add_argument("--noise", type=names, metavar="NAMES", help="calibrate under each; default: clean")
    calibrate.add_argument("-o", "--output", required=True, metavar="FILE.json", help="where the ranges go")
    calibrate.set_defaults(command=_calibrate)


def _calibrate(options: argparse.Namespace, console: Console) -> int:
    # Here --data and --noise say what to calibrate on, not what to score.
    recipe = replace(recipe_from_options(options), calibrate="", calibration="")
    recipe = replace(
        recipe,
        calibrate=recipe.data,
        calibration_pictures=options.pictures,
        calibration_noise=options.noise or recipe.calibration_noise,
    )
    check_output(options.output, recipe)
    calibration = calibration_from_job(job_for_file(recipe, console), Progress())
    path = Path(options.output)
    write_calibration(calibration, path)
    for finding in calibration_findings(calibration.summary()):
        console.print(f"{finding.severity}: {finding.message}", style="yellow", markup=False)
    console.print(
        f"{len(calibration.ranges)} ranges by {calibration.source.method} from {calibration.inputs} inputs "
        f"({' + '.join(calibration.source.conditions)}) in {path.resolve()}",
        markup=False,
    )
    return 0
