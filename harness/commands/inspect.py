"""``inspect``: the integer-execution certificate of a model file, or what of it does not suit a target."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from engines import LINTERS
from engines.lint import ERROR
from harness.inspection import inspection_report
from harness.lint_report import lint_report
from harness.registry import linter

if TYPE_CHECKING:
    from harness.commands.options import Commands


def add(commands: Commands) -> None:
    """Describe the command."""
    inspect = commands.add_parser("inspect", help="the integer-execution certificate of a model file")
    inspect.add_argument("artifact", metavar="MODEL")
    inspect.add_argument("--engine", help="what runs it; default: ort-cpu, or what runs files like this")
    inspect.add_argument("--trust", action="store_true", help="take a file that is not the one its sidecar describes")
    inspect.add_argument(
        "--for",
        dest="goal",
        metavar="TARGET",
        help=f"run nothing; list what does not suit {', '.join(LINTERS)}; exits with 1 where it would be refused",
    )
    inspect.set_defaults(command=_inspect)


def _inspect(options: argparse.Namespace, console: Console) -> int:
    path = Path(options.artifact)
    if options.goal is None:
        console.print(inspection_report(path, options.engine, options.trust))
        return 0
    findings = linter(options.goal)(path)
    console.print(lint_report(path, options.goal, findings))
    return int(any(finding.severity == ERROR for finding in findings))
