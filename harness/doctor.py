"""Doctor: what can run on this machine, and why the rest cannot."""

from __future__ import annotations

import os
import platform

from rich.console import Group
from rich.table import Table
from rich.text import Text

from engines.base import EngineUnavailable
from engines.trt.presence import presence_lines
from harness.environment import environment, installed_version
from harness.registry import ENGINE_TABLE, NOISE_TABLE, STEP_TABLE
from harness.registry import Table as NameTable

# Distributions that install the same import name: the one installed last wins, in part.
CLASHES = (
    (
        ("onnxruntime", "onnxruntime-gpu"),
        "both install the import name 'onnxruntime' and overwrite each other's files. "
        "Uninstall both, then install one of qharness[cpu] and qharness[gpu]",
    ),
    (
        ("opencv-python", "opencv-python-headless"),
        "both install the import name 'cv2'. Uninstall both, then install opencv-python-headless",
    ),
)


def doctor_report() -> Group:
    """Machine, libraries, engines, noises, and mixtures of packages that do not work together."""
    facts = environment()
    lines = [
        f"qharness {installed_version('qharness') or '(not installed)'}, Python {facts['python']}, "
        f"{platform.system()} {facts['machine']}, {os.cpu_count()} cores",
        f"{facts['processor']}, integer kernels of class {facts['kernel_class']}",
        "libraries: " + ", ".join(f"{name} {value}" for name, value in facts["libraries"].items()),
        f"JPEG library under Pillow: {facts['jpeg']}",
        *presence_lines(),
    ]
    return Group(
        *(Text(line) for line in lines),
        *(Text(problem, style="red") for problem in clashes()),
        _table("engine", ENGINE_TABLE),
        _table("noise", NOISE_TABLE),
        *(Text(f"missing step: {problem}", style="yellow") for problem in _step_problems()),
    )


def availability(table: NameTable) -> dict[str, str | None]:
    """Every name of a table -> ``None`` when it can be used here, else the reason why not."""
    found: dict[str, str | None] = {}
    for name in table.names():
        try:
            table.resolve(name)
            found[name] = None
        except EngineUnavailable as error:
            found[name] = str(error)
        except Exception as error:  # noqa: BLE001 - a broken package may fail in any way; saying so is the purpose
            found[name] = f"{table.what} {name!r} cannot be imported: {type(error).__name__}: {error}"
    return found


def clashes() -> list[str]:
    """Mixtures of installed distributions that break each other, each with what to do."""
    return [
        f"{' and '.join(names)} are both installed: {advice}"
        for names, advice in CLASHES
        if all(installed_version(name) for name in names)
    ]


def _table(what: str, names: NameTable) -> Group:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in (what, "here", "about"):
        table.add_column(column)
    found = availability(names)
    for name, problem in found.items():
        row = names.rows.get(name)
        table.add_row(name, "no" if problem else "yes", row.about if row else "a plug-in")
    return Group(Text(), table, *(Text(problem, style="yellow") for problem in found.values() if problem))


def _step_problems() -> list[str]:
    return [f"{name}: {problem}" for name, problem in availability(STEP_TABLE).items() if problem]
