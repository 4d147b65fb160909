"""The command line. Exit codes: 0 good, 1 a verdict failed, 2 the user can mend it, 3 a bug."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from harness.shadow import check_one_home

shadowed = check_one_home()
if shadowed:
    sys.exit(f"error: {shadowed}")

from engines.artifact import ArtifactError
from engines.base import EngineError
from exporters.base import ExportError
from harness.corrupt import FORMATS, JPEG, SEVERITIES, Outcome, Request, corrupt_folder, corruption_steps
from harness.cost import cost_of, cost_report
from harness.demo.embedded import demo_recipe
from harness.doctor import doctor_report
from harness.errors import HarnessError
from harness.inspection import inspection_report
from harness.plan import plan
from harness.progress import Progress
from harness.recipe import FORMS, Recipe, read_recipe, resolved
from harness.registry import NOISE_TABLE, missing_data
from harness.report.build import report_from_store
from harness.report.markdown import markdown_report
from harness.report.terminal import terminal_report
from harness.report.write import HTML, write_reports
from harness.run import Speed
from harness.session import default_folder, execute
from harness.sheet import write_sheet
from harness.store import FULL, Store, is_full
from noise import NOISES
from noise.base import NoiseError
from noise.corruptions.overlays import use_folder
from noise.presets import preset_names

USER_ERROR, BUG, INTERRUPTED, PIPE_CLOSED = 2, 3, 130, 141
USER_ERRORS = (HarnessError, ArtifactError, EngineError, ExportError, NoiseError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    try:
        code: int = options.command(options, console)
        return code
    except KeyboardInterrupt:
        print("interrupted; everything measured is kept, and the same command continues", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone. Python would complain once more when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 - the last door: a bug is shown whole and has its own exit code
        message = _user_message(error)
        if message is None:
            traceback.print_exc()
            print("this is a bug in qharness; please report it with the lines above", file=sys.stderr)
            return BUG
        print(f"error: {message}", file=sys.stderr)
        return USER_ERROR


def _user_message(error: Exception) -> str | None:
    """What to tell the user about an error that they can mend; ``None`` for a bug."""
    if isinstance(error, USER_ERRORS):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        reason = FULL if is_full(error) else str(error.strerror)
        return f"{reason}: {error.filename}" if error.filename else reason
    return None


def _run(options: argparse.Namespace, console: Console) -> int:
    return _measure(_recipe(options), options, console)


def _demo(options: argparse.Namespace, console: Console) -> int:
    console.print("The embedded network on the embedded pictures: synthetic stand-ins for ImageNet.\n")
    code = _measure(demo_recipe(), options, console)
    command = "qharness" if shutil.which("qharness") else sys.argv[0]
    console.print(f"Next, your own model:  {command} run MODEL.onnx --data FOLDER_WITH_ONE_FOLDER_PER_CLASS")
    return code


def _measure(recipe: Recipe, options: argparse.Namespace, console: Console) -> int:
    folder = Path(options.output) if options.output else default_folder(recipe)
    before = len(Store(folder).parts())
    report = execute(recipe, folder, Speed(options.workers, options.batch), Progress())
    console.print(terminal_report(report))
    if before and before == len(Store(folder).parts()):
        console.print("\nNothing was left to measure: this run was complete. Delete its folder to measure again.")
    console.print(f"\nReport: {(folder / HTML).resolve()}")
    return 0


def _plan(options: argparse.Namespace, console: Console) -> int:
    made = plan(_recipe(options))
    speed = Speed(options.workers, options.batch)
    console.print(cost_report(made, cost_of(made, speed, Progress()), speed))
    return 0


def _report(options: argparse.Namespace, console: Console) -> int:
    store = Store(Path(options.folder))
    report = report_from_store(store)
    path = write_reports(report, store)
    if options.json:
        print(json.dumps(report.describe(), indent=1))
    elif options.markdown:
        print(markdown_report(report))
    elif options.html:
        print(path.resolve())
    else:
        console.print(terminal_report(report))
        console.print(f"\nReport: {path.resolve()}")
    return 0


def _inspect(options: argparse.Namespace, console: Console) -> int:
    console.print(inspection_report(Path(options.artifact), options.engine))
    return 0


def _doctor(options: argparse.Namespace, console: Console) -> int:
    del options
    console.print(doctor_report())
    return 0


def _corrupt(options: argparse.Namespace, console: Console) -> int:
    if bool(options.output) == bool(options.sheet):
        raise HarnessError("say what to draw: either -o OUT for a folder of pictures, or --sheet FILE.png for one")
    if options.frost_overlays:
        use_folder(Path(options.frost_overlays))
    noise = _all_corruptions(console) if options.noise is None else options.noise
    request = Request(noise, _severities(options.severity), options.seed, options.size)
    target = Path(options.target)
    if options.sheet:
        write_sheet(target, Path(options.sheet), request)
        console.print(f"Sheet: {Path(options.sheet).resolve()}", markup=False)
        return 0
    speed = Speed(options.workers)
    outcome = corrupt_folder(target, Path(options.output), request, options.format, speed, Progress())
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


def _recipe(options: argparse.Namespace) -> Recipe:
    """The recipe that the command line stands for: a file with changes, or a model with defaults."""
    given = {
        "data": options.data,
        "calibrate": options.calibrate,
        "preprocess": options.preprocess,
        "noise": options.noise,
        "corruption_form": options.form,
        "imagenet_c": options.imagenet_c,
        "frost_overlays": options.frost_overlays,
        "engines": options.engines,
        "limit": options.limit,
        "seed": options.seed,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    target = Path(options.target)
    if target.suffix == ".toml":
        if not target.is_file():
            raise HarnessError(f"there is no recipe {target}")
        return resolved(replace(read_recipe(target), **changes), Path.cwd())
    if not options.data:
        raise HarnessError(f"qharness needs pictures: add --data FOLDER, one folder per class, to {target}")
    return resolved(Recipe(model=options.target, **changes), Path.cwd())


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qharness",
        description="Does the quantised engine that you are about to ship still see through real-world noise?",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="the whole line on the embedded network and pictures")
    _add_speed(demo)
    demo.set_defaults(command=_demo)

    run = commands.add_parser("run", help="measure a model; continues where an earlier run stopped")
    _add_recipe(run)
    _add_speed(run)
    run.set_defaults(command=_run)

    planned = commands.add_parser("plan", help="the grid, its size and its cost; measures nothing")
    _add_recipe(planned)
    _add_speed(planned, with_output=False)
    planned.set_defaults(command=_plan)

    report = commands.add_parser("report", help="the reports of a run, made again from its records")
    report.add_argument("folder", metavar="RUN")
    form = report.add_mutually_exclusive_group()
    form.add_argument("--html", action="store_true", help="print the path of the HTML page only")
    form.add_argument("--markdown", action="store_true", help="print Markdown")
    form.add_argument("--json", action="store_true", help="print JSON (harness/report/schema.json)")
    report.set_defaults(command=_report)

    corrupt = commands.add_parser("corrupt", help="corrupted copies of a folder of pictures, or a sheet of one")
    _add_corrupt(corrupt)
    corrupt.set_defaults(command=_corrupt)

    inspect = commands.add_parser("inspect", help="the integer-execution certificate of a model file")
    inspect.add_argument("artifact", metavar="MODEL")
    inspect.add_argument("--engine", default="ort-cpu", help="default: %(default)s")
    inspect.set_defaults(command=_inspect)

    doctor = commands.add_parser("doctor", help="what can run here, and why the rest cannot")
    doctor.set_defaults(command=_doctor)
    return parser


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="MODEL|RECIPE", help="an ONNX file, or a recipe (.toml)")
    parser.add_argument("--data", metavar="DIR", help="pictures to score, one folder per class")
    parser.add_argument("--calibrate", metavar="DIR", help="pictures to calibrate on; default: some of --data")
    parser.add_argument("--preprocess", metavar="PRESET", help=f"one of {', '.join(preset_names())}")
    parser.add_argument("--noise", type=_names, metavar="NAMES", help="NAME or NAME:SETTING, with commas")
    parser.add_argument("--form", choices=FORMS, help="of corrupted pictures; stored: as JPEG; default: in-memory")
    parser.add_argument("--imagenet-c", metavar="DIR", help="read corrupted pictures from DIR/NAME/SEVERITY/CLASS/FILE")
    parser.add_argument("--frost-overlays", metavar="DIR", help="ImageNet-C's photographs of frost")
    parser.add_argument("--engines", type=_names, metavar="NAMES", help="ENGINE or ENGINE:VERSION, with commas")
    parser.add_argument("--limit", type=int, metavar="N", help="score at most N pictures")
    parser.add_argument("--seed", type=int, metavar="N", help="of every random draw; default 0")


def _add_corrupt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="DIR|PICTURE", help="one folder per class; with --sheet one picture")
    parser.add_argument("-o", "--output", metavar="OUT", help="write OUT/NAME/SEVERITY/CLASS/FILE; continues")
    parser.add_argument("--sheet", metavar="FILE.png", help="draw every corruption of one picture side by side")
    parser.add_argument(
        "--noise", type=_names, metavar="NAMES", help="NAME or NAME:SEVERITY, with commas; default: all"
    )
    severities = ",".join(map(str, SEVERITIES))
    parser.add_argument("--severity", default=severities, metavar="LIST", help="with commas; default: %(default)s")
    parser.add_argument("--format", choices=FORMATS, default=JPEG, help="png loses nothing; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of every random draw; default: %(default)s")
    parser.add_argument("--size", type=int, default=224, metavar="PIXELS", help="of the result; default: %(default)s")
    parser.add_argument("--frost-overlays", metavar="DIR", help="ImageNet-C's photographs of frost")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="pictures at once; default: cores")


def _add_speed(parser: argparse.ArgumentParser, *, with_output: bool = True) -> None:
    if with_output:
        parser.add_argument("-o", "--output", metavar="RUN", help="the run's folder; default: qharness-runs/...")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="pictures at once; default: cores")
    parser.add_argument("--batch", type=int, default=4, metavar="N", help="pictures per call; default: %(default)s")


if __name__ == "__main__":
    sys.exit(main())
