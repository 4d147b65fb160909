"""``inspect``: the integer-execution certificate of a model file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from harness.inspection import inspection_report

if TYPE_CHECKING:
    from harness.commands.options import Commands


def add(commands: Commands) -> None:
    """Describe the command."""
    inspect = commands.add_parser("inspect", help="the integer-execution certificate of a model file")
    inspect.add_argument("artifact", metavar="MODEL")
    inspect.add_argument("--engine", default="ort-cpu", help="default: %(default)s")
    inspect.set_defaults(command=_inspect)


def _inspect(options: argparse.Namespace, console: Console) -> int:
    console.print(inspection_report(Path(options.artifact), options.engine))
    return 0
