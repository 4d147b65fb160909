"""``build``: an ONNX file becomes a plan for the GPU of this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from engines import BUILDERS, ENGINES, LINTERS
from engines.building import DEFAULT_BATCH, FRESH, HARDWARE, PRECISIONS, REUSE, TIMING_CACHES, BuildOptions
from engines.lint import ERROR
from engines.onnx_file import artifact_from_onnx
from harness.commands.files import check_output
from harness.errors import HarnessError, unknown
from harness.inspection import inspection_report
from harness.lint_report import lint_report
from harness.progress import Progress
from harness.recipe import Recipe
from harness.registry import linter, plan_builder, plan_comparison

if TYPE_CHECKING:
    from harness.commands.options import Commands

SHOWN_NOTES = 5


def add(commands: Commands) -> None:
    """Describe the command."""
    build = commands.add_parser("build", help="an ONNX file becomes a plan for the GPU of this machine")
    build.add_argument("model", metavar="MODEL", help="an ONNX file: float, or quantised for the engine")
    build.add_argument("-o", "--output", metavar="FILE", required=True, help="the plan; FILE.json says what it is")
    build.add_argument(
        "--engine", default=next(iter(BUILDERS)), help=f"one of {', '.join(BUILDERS)}; default: %(default)s"
    )
    build.add_argument(
        "--precision",
        default=PRECISIONS[0],
        metavar="HOW",
        help=f"of the layers without Q/DQ: one of {', '.join(PRECISIONS)}; default: %(default)s",
    )
    build.add_argument(
        "--batch",
        type=_batch,
        metavar="MIN,OPT,MAX",
        help=f"of a model with a dynamic batch; default: {','.join(map(str, DEFAULT_BATCH))}",
    )
    build.add_argument("--workspace", type=int, metavar="MIB", help="memory that a layer may use; default: no limit")
    build.add_argument(
        "--level", type=int, default=3, metavar="N", help="how long to search, 0 to 5; default: %(default)s"
    )
    build.add_argument("--version-compatible", action="store_true", help="newer versions of TensorRT may run it")
    build.add_argument(
        "--hardware",
        default=HARDWARE[0],
        metavar="LEVEL",
        help=f"which other GPUs may run it: one of {', '.join(HARDWARE)}; default: %(default)s",
    )
    build.add_argument("--no-external-tactics", action="store_true", help="try no kernels of cuBLAS and cuDNN")
    build.add_argument(
        "--timing-cache",
        choices=TIMING_CACHES,
        help=f"reuse the times kept beside the plan, or start anew; default: {REUSE}, with --replicates {FRESH}",
    )
    build.add_argument(
        "--replicates",
        type=int,
        default=1,
        metavar="N",
        help="build N plans, each with a fresh timing cache, and compare",
    )
    build.set_defaults(command=_build)


def _batch(text: str) -> tuple[int, int, int]:
    """``4`` or ``1,8,32``.

    >>> _batch("4")
    (4, 4, 4)
    """
    sizes = [int(size) if size.isdecimal() else 0 for size in text.split(",")]
    if len(sizes) not in (1, 3) or 0 in sizes:
        raise argparse.ArgumentTypeError(f"expected one size, or three as in 1,8,32; got {text!r}")
    return sizes[0], sizes[len(sizes) // 2], sizes[-1]


def _build(options: argparse.Namespace, console: Console) -> int:
    model, plan = Path(options.model), Path(options.output)
    wish = BuildOptions(
        precision=options.precision,
        batch=options.batch,
        workspace_mib=options.workspace,
        level=options.level,
        version_compatible=options.version_compatible,
        hardware=options.hardware,
        external_tactics=not options.no_external_tactics,
        timing_cache=options.timing_cache or (REUSE if options.replicates == 1 else FRESH),
    )
    if options.engine not in BUILDERS:
        raise unknown("engine to build for", options.engine, BUILDERS)
    if options.replicates < 1:
        raise HarnessError(f"--replicates: expected at least 1; got {options.replicates}")
    if options.replicates > 1 and wish.timing_cache == REUSE:
        raise HarnessError(
            f"--replicates {options.replicates} needs --timing-cache {FRESH}: builds that reuse one another's times "
            f"choose the same kernels, and say nothing of the spread"
        )
    target = ENGINES[options.engine].quantised_for
    findings = linter(target)(model) if target in LINTERS else ()
    check_output(options.output, Recipe(model=options.model, data=""))
    if findings:
        console.print(lint_report(model, target, findings))
    if any(finding.severity == ERROR for finding in findings):
        raise HarnessError(f"{model} does not suit {target}; see the errors above")
    build = plan_builder(options.engine)
    plans = replicates(plan, options.replicates)
    for path in plans:
        with Progress().phases() as on_step:
            built = build(artifact_from_onnx(model), path, wish, on_step)
        for note in built.notes[:SHOWN_NOTES]:
            console.print(f"note: {note}", style="yellow", markup=False)
        if len(built.notes) > SHOWN_NOTES:
            console.print(f"and {len(built.notes) - SHOWN_NOTES} more warnings", style="yellow")
        console.print(f"{path.resolve()}: {built.artifact.made_by['tool']}", markup=False)
        console.print(inspection_report(path, options.engine))
    if len(plans) > 1:
        console.print(_spread(options.engine, plans), markup=False)
    return 0


def replicates(plan: Path, count: int) -> list[Path]:
    """Where each of several builds goes.

    >>> [str(path) for path in replicates(Path("m.plan"), 2)]
    ['m.1.plan', 'm.2.plan']
    """
    return [plan] if count == 1 else [plan.with_suffix(f".{index + 1}{plan.suffix}") for index in range(count)]


def _spread(engine: str, plans: list[Path]) -> str:
    changed = plan_comparison(engine)(plans)
    if not changed:
        return f"the {len(plans)} builds chose the same kernels"
    names = ", ".join(changed[:5]) + (", ..." if len(changed) > 5 else "")
    return f"the {len(plans)} builds differ in the kernels of {len(changed)} layers: {names}"
