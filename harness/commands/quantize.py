"""``quantize``: a float model becomes a file with integers for one target."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from engines import ENGINES
from engines.artifact import Artifact
from engines.base import EngineUnavailable
from exporters import METHODS, TARGETS
from harness.calibrate import calibration_findings, calibration_from_job
from harness.commands.files import job_for_file
from harness.commands.options import add_model, add_quantisation, recipe_from_options
from harness.inspection import inspection_report
from harness.progress import Progress
from harness.recipe import quantisation_from_recipe
from harness.registry import engine_opener, qdq_writer, quantisation_target

if TYPE_CHECKING:
    from harness.commands.options import Commands


def add(commands: Commands) -> None:
    """Describe the command."""
    quantize = commands.add_parser("quantize", help="write a model with integers for one target")
    add_model(quantize)
    targets = f"one of {', '.join(TARGETS)}; default: %(default)s"
    quantize.add_argument("--for", dest="goal", default="ort-cpu", metavar="TARGET", help=targets)
    quantize.add_argument("--calibrate", metavar="DIR", help="pictures to calibrate on, one folder per class")
    quantize.add_argument("--calibration", metavar="FILE", help="ranges from qharness calibrate, instead")
    quantize.add_argument("--method", metavar="NAME", help=f"of calibration: one of {', '.join(METHODS)}")
    quantize.add_argument("--calibration-pictures", type=int, metavar="N", help="at most; default 100")
    add_quantisation(quantize)
    quantize.add_argument("-o", "--output", required=True, metavar="FILE.onnx", help="the new file")
    quantize.set_defaults(command=_quantize)


def _quantize(options: argparse.Namespace, console: Console) -> int:
    recipe = recipe_from_options(options, scores=False)
    target = quantisation_target(options.goal)
    job = job_for_file(recipe, console)
    calibration = calibration_from_job(job, Progress())
    wish = quantisation_from_recipe(recipe, options.goal)
    made = qdq_writer()(job.artifact, calibration, wish, target, Path(options.output))
    for finding in calibration_findings(calibration.summary()):
        console.print(f"{finding.severity}: {finding.message}", style="yellow", markup=False)
    console.print(f"{made.path.resolve()} for {options.goal}, ranges by {calibration.source.method}", markup=False)
    _show_proof(made, options.goal, console)
    return 0


def _show_proof(made: Artifact, target: str, console: Console) -> None:
    """The certificate, where an engine that the file was made for can run here."""
    for name, row in ENGINES.items():
        if row.quantised_for == target:
            try:
                engine_opener(name)
            except EngineUnavailable:
                continue
            console.print(inspection_report(made.path, name))
            return
    console.print(f"No engine for {target} can run here, so which kernels run is not proven.", markup=False)
