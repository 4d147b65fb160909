"""``doctor``: what can run here, and why the rest cannot."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rich.console import Console

from harness.doctor import doctor_report

if TYPE_CHECKING:
    from harness.commands.options import Commands


def add(commands: Commands) -> None:
    """Describe the command."""
    doctor = commands.add_parser("doctor", help="what can run here, and why the rest cannot")
    doctor.set_defaults(command=_doctor)


def _doctor(options: argparse.Namespace, console: Console) -> int:
    del options
    console.print(doctor_report())
    return 0
