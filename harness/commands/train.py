"""``train``: a float model learns with its rounding on, and becomes a file with integers."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from exporters import TRAINED
from exporters.qat.options import DEVICES, RECIPE_BATCH, RECIPE_RATE, TARGET, Bits, Training, Wish
from harness.calibrate import calibration_findings
from harness.commands.files import check_output, job_for_file
from harness.commands.options import add_model, recipe_from_options
from harness.errors import HarnessError
from harness.inspection import inspection_report
from harness.progress import Progress
from harness.registry import TRAINED_TABLE
from harness.samples import SampleSet, samples_from_data
from harness.train import trained_from_job

if TYPE_CHECKING:
    from harness.commands.options import Commands


def add(commands: Commands) -> None:
    """Describe the command."""
    train = commands.add_parser("train", help="train a float model with its rounding on, and write it with integers")
    add_model(train)
    how = Training()
    train.add_argument("--data", metavar="DATA", required=True, help="pictures to train on, one folder per class")
    train.add_argument("--labels", metavar="FILE", help="the labels of --data, where it has none itself")
    train.add_argument("--limit", type=int, metavar="N", help="train on at most N pictures")
    train.add_argument("--calibrate", metavar="DATA", help="where activations begin; default: some of --data")
    train.add_argument("--calibration-pictures", type=int, metavar="N", help="at most; default 100")
    train.add_argument("--for", dest="goal", default=TARGET, metavar="TARGET", help="only, and by default, %(default)s")
    rounding = train.add_argument_group("rounding")
    methods = "; ".join(f"{name}: {row.about}" for name, row in TRAINED.items())
    rounding.add_argument("--method", dest="trained", default="lsq", metavar="NAME", help=f"{methods}; default: lsq")
    rounding.add_argument("--bits", type=int, default=8, metavar="N", help="2 to 8; default: %(default)s")
    rounding.add_argument("--weight-bits", dest="bits_of_weights", type=int, metavar="N", help="other than --bits")
    rounding.add_argument("--activation-bits", dest="bits_of_activations", type=int, metavar="N", help="likewise")
    rounding.add_argument(
        "--first-last-bits", type=int, default=8, metavar="N", help="of the first and the last layer; default: 8"
    )
    course = train.add_argument_group("training")
    course.add_argument("--epochs", type=int, default=how.epochs, metavar="N", help="default: %(default)s")
    course.add_argument("--batch", type=int, default=how.batch, metavar="N", help="pictures; default: %(default)s")
    course.add_argument(
        "--learning-rate",
        type=float,
        metavar="RATE",
        help=f"at its highest; default: {RECIPE_RATE} for {RECIPE_BATCH} pictures, in proportion to --batch",
    )
    course.add_argument("--warm-up", type=float, default=how.warm_up, help="share of the steps; default: %(default)s")
    course.add_argument("--weight-decay", type=float, default=how.weight_decay, help="default: %(default)s")
    course.add_argument("--label-smoothing", type=float, default=how.label_smoothing, help="default: %(default)s")
    course.add_argument("--flip", action="store_true", help="mirror every other picture, by chance")
    course.add_argument("--checkpoint-steps", type=int, default=how.checkpoint_steps, metavar="N", help="%(default)s")
    course.add_argument("--device", default=how.device, metavar="NAME", help=f"{' or '.join(DEVICES)}")
    train.add_argument("-o", "--output", metavar="FILE", required=True, help="the new model")
    train.set_defaults(command=_train, resumes=True)


def _train(options: argparse.Namespace, console: Console) -> int:
    if options.goal != TARGET:
        raise HarnessError(f"--for {options.goal}: expected {TARGET}; trained files have its Q/DQ, U8S8")
    wish = _wish(options)
    TRAINED_TABLE.resolve(wish.method)  # a wrong name, or a missing package, is said now
    recipe = recipe_from_options(options)
    check_output(options.output, recipe)
    job = job_for_file(replace(recipe, calibrate=recipe.calibrate or recipe.data, calibration=""), console)
    everything = samples_from_data(recipe.data, recipe.labels, job.artifact, recipe.seed)
    samples = SampleSet(everything.source, everything.samples[: recipe.limit or None])
    made, findings = trained_from_job(job, samples, wish, Path(options.output), Progress())
    calibrated = calibration_findings(made.made_by["calibration"])
    for finding in (*calibrated, *findings):
        console.print(f"{finding.severity}: {finding.message}", style="yellow", markup=False)
    console.print(f"{made.path.resolve()}: trained by {wish.method}, {made.made_by['runs_as']}", markup=False)
    console.print(made.made_by["parity"]["reason"], markup=False)
    console.print(inspection_report(made.path, TARGET))
    return 0


def _wish(options: argparse.Namespace) -> Wish:
    bits = Bits(
        options.bits if options.bits_of_weights is None else options.bits_of_weights,
        options.bits if options.bits_of_activations is None else options.bits_of_activations,
        options.first_last_bits,
    )
    fields = {name: getattr(options, name) for name in Training.__dataclass_fields__ if name != "seed"}
    return Wish(options.trained, bits, Training(**fields, seed=options.seed or 0))
