"""``quantize``: a float model becomes a file with integers for one target."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from engines import ENGINES
from engines.artifact import Artifact
from engines.base import EngineUnavailable
from engines.onnx_file import artifact_from_onnx
from exporters import METHODS, TARGETS
from exporters.base import Quantisation
from exporters.int4_options import METHODS as INT4_METHODS
from exporters.int4_options import Int4Options, check_target
from exporters.levels import steps_before_levels, with_levels
from harness.calibrate import CLEAN, CalibrationJob, calibration_findings, calibration_from_job, pictures_of
from harness.commands.files import check_output, job_for_file, scored_samples, with_chosen_preprocessing
from harness.commands.options import add_model, add_quantisation, names, recipe_from_options
from harness.conditions import conditions_from_recipe
from harness.errors import HarnessError
from harness.exporting import int4_writer, qdq_writer, quantisation_target
from harness.improve import improved_job, improvement_findings, quantised_file
from harness.inspection import inspection_report
from harness.progress import Progress
from harness.recipe import Recipe, quantisation_from_recipe
from harness.registry import engine_opener
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
    quantize.add_argument(
        "--levels",
        action="store_true",
        help="take 8-bit levels [N, H, W, 3]: normalise inside the graph, on the device",
    )
    small = quantize.add_argument_group("INT4", "4-bit weights in blocks for matrix products; activations in float")
    small.add_argument("--to", choices=("int8", "int4"), default="int8", help="default: %(default)s")
    small.add_argument("--block", type=int, metavar="N", help="32, 64 or 128 weights share a scale")
    small.add_argument("--asymmetric", action="store_true", help="blocks have zero points")
    small.add_argument("--rounding", metavar="HOW", help=f"one of {', '.join(INT4_METHODS)}")
    small.add_argument("--accuracy-level", type=int, default=0, metavar="N", help="0, or 4: INT8 activations inside")
    small.add_argument("--rest", default="float", metavar="WHAT", help="other layers: float (default) or int8")
    small.add_argument("--pointwise", action="store_true", help="1 x 1 convolutions too; slower and less accurate")
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
    if recipe.improve and (options.to == "int4" or options.sensitivity):
        raise HarnessError("improvements help whole INT8 files; leave --improve out with --to int4 and --sensitivity")
    if options.output:
        check_output(options.output, recipe)
    if options.to == "int4":
        return _quantize_int4(recipe, options, console)
    quantisation_target(options.goal)  # a wrong name is said now
    job = job_for_file(recipe, console)
    if options.levels:
        steps_before_levels(job.artifact)
    wish = quantisation_from_recipe(recipe, options.goal)
    if options.sensitivity:
        return _rank(recipe, job, wish, options, console)
    made = _int8_file(job, wish, Path(options.output), console)
    if options.levels:
        made = with_levels(made, made.path)
    console.print(f"{made.path.resolve()} for {options.goal}, ranges by {job.source().method}", markup=False)
    for entry, value in made.session_config.items():
        console.print(
            f"Deploy it on ONNX Runtime with the session configuration {entry} = {value}: else ONNX Runtime "
            f"quantises the layers that are kept in float by itself",
            markup=False,
        )
    _show_proof(made, options.goal, console)
    return 0


def _int8_file(job: CalibrationJob, wish: Quantisation, path: Path, console: Console) -> Artifact:
    """Improve, calibrate and write; says what a user must know of it."""
    with tempfile.TemporaryDirectory() as folder:
        job = improved_job(job, wish.improve, Path(folder) / "improved.onnx", Progress())
        calibration = calibration_from_job(job, Progress())
        made = quantised_file(job, calibration, wish, path, Progress())
    for finding in (*calibration_findings(calibration.summary()), *improvement_findings(made)):
        console.print(f"{finding.severity}: {finding.message}", style="yellow", markup=False)
    return made


def _quantize_int4(recipe: Recipe, options: argparse.Namespace, console: Console) -> int:
    given = bool(recipe.calibrate)
    wish = Int4Options(
        block=options.block or (64 if options.goal == "tensorrt" else 32),
        symmetric=not options.asymmetric,
        method=options.rounding or ("awq-clip" if given else "hqq"),
        accuracy_level=options.accuracy_level,
        rest=options.rest,
        pointwise=options.pointwise,
    )
    check_target(options.goal, wish)
    if (wish.rest == "int8" or INT4_METHODS[wish.method].needs_pictures) and not given:
        raise HarnessError(f"rounding by {wish.method}, the rest in {wish.rest}, needs pictures: --calibrate DIR")
    job = job_for_file(recipe, console) if given else None
    artifact = job.artifact if job else with_chosen_preprocessing(artifact_from_onnx(Path(recipe.model)), recipe)
    if options.levels:
        steps_before_levels(artifact)

    def rest_in_int8(halfway: Artifact, path: Path) -> Artifact:
        assert job is not None, "checked above"
        calibration = calibration_from_job(replace(job, artifact=halfway), Progress())
        how = quantisation_from_recipe(recipe, options.goal)
        return qdq_writer()(halfway, calibration, how, quantisation_target(options.goal), path)

    pictures = pictures_of(job) if job and INT4_METHODS[wish.method].needs_pictures else None
    rest = rest_in_int8 if wish.rest == "int8" else None
    made = int4_writer()(artifact, options.goal, wish, Path(options.output), pictures, rest)
    if options.levels:
        made = with_levels(made, made.path)
    layers = made.made_by["int4_layers"]
    console.print(f"{made.path.resolve()} for {options.goal}: {len(layers)} layers with 4-bit weights", markup=False)
    for reason, count in Counter(each["reason"] for each in made.made_by["other_layers"]).items():
        console.print(f"not in 4 bits: {count} layers: {reason}", markup=False)
    _show_proof(made, options.goal, console)
    return 0


def _rank(
    recipe: Recipe, job: CalibrationJob, wish: Quantisation, options: argparse.Namespace, console: Console
) -> int:
    """Show the layers by what they cost, and keep the list where the user wants it."""
    samples = scored_samples(recipe, job)
    calibration = calibration_from_job(job, Progress())
    conditions = conditions_from_recipe(options.noise or (CLEAN,), recipe, job.pipeline).chosen
    study = Study(job.artifact, calibration, wish, samples, conditions, recipe.seed)
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
