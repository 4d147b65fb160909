"""``quantize``: a float model becomes a file with integers for one target."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from engines import ENGINES
from engines.artifact import Artifact
from engines.base import EngineUnavailable
from exporters import METHODS, TARGETS
from harness.calibrate import CLEAN, calibration_findings, calibration_from_job
from harness.commands.files import job_for_file, scored_samples
from harness.commands.options import add_model, add_quantisation, names, recipe_from_options
from harness.conditions import conditions_from_recipe
from harness.errors import HarnessError
from harness.inspection import inspection_report
from harness.progress import Progress
from harness.recipe import quantisation_from_recipe
from harness.registry import engine_opener, qdq_writer, quantisation_target
from harness.sensitivity import Study, sensitivity
from harness.sensitivity_report import sensitivity_report

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
    quantize.add_argument("-o", "--output", metavar="FILE", help="the new model; with --sensitivity a list as JSON")
    study = quantize.add_argument_group("sensitivity", "what quantising each layer alone costs; writes no model")
    study.add_argument("--sensitivity", action="store_true", help="rank the layers by the accuracy that they cost")
    study.add_argument("--data", metavar="DIR", help="pictures to score, one folder per class")
    study.add_argument("--noise", type=names, metavar="NAMES", help="score under each; default: clean")
    study.add_argument("--limit", type=int, default=100, metavar="N", help="score at most N; default: %(default)s")
    quantize.set_defaults(command=_quantize)


def _quantize(options: argparse.Namespace, console: Console) -> int:
    recipe = recipe_from_options(options, scores=options.sensitivity)
    if not options.output and not options.sensitivity:
        raise HarnessError("say where the new model goes: -o FILE.onnx")
    target = quantisation_target(options.goal)
    job = job_for_file(recipe, console)
    samples = scored_samples(recipe, job) if options.sensitivity else None
    calibration = calibration_from_job(job, Progress())
    wish = quantisation_from_recipe(recipe, options.goal)
    if samples is not None:
        conditions, _ = conditions_from_recipe(options.noise or (CLEAN,), recipe, job.pipeline)
        study = Study(job.artifact, calibration, wish, samples, conditions, recipe.seed)
        return _rank(study, options, console)
    made = qdq_writer()(job.artifact, calibration, wish, target, Path(options.output))
    for finding in calibration_findings(calibration.summary()):
        console.print(f"{finding.severity}: {finding.message}", style="yellow", markup=False)
    console.print(f"{made.path.resolve()} for {options.goal}, ranges by {calibration.source.method}", markup=False)
    _show_proof(made, options.goal, console)
    return 0


def _rank(study: Study, options: argparse.Namespace, console: Console) -> int:
    """Show the layers by what they cost, and keep the list where the user wants it."""
    costs = sensitivity(study, Progress())
    console.print(sensitivity_report(study, costs))
    if options.output:
        Path(options.output).write_text(json.dumps([cost.describe() for cost in costs], indent=1) + "\n")
        console.print(f"List: {Path(options.output).resolve()}", markup=False)
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
