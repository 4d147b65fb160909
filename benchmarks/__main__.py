"""Measure everything: ``python -m benchmarks [NAME ...]``."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks import BENCHMARKS, ONLY_NAMED
from benchmarks.figure import Figure
from engines.base import EngineUnavailable
from harness.environment import environment

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Run the named benchmarks, or all but `ONLY_NAMED`, and write their results; the others' results stay.

    Returns:
        0, or 2 where this machine lacks what one of them needs; it is skipped, with the reason.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], metavar="NAME", help=", ".join(BENCHMARKS))
    names = parser.parse_args().names or [name for name in BENCHMARKS if name not in ONLY_NAMED]
    RESULTS.mkdir(exist_ok=True)
    code = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            print(f"{name} ...", flush=True)
            try:
                figure: Figure = importlib.import_module(BENCHMARKS[name]).measure(Path(folder))
            except EngineUnavailable as error:
                print(f"{name}: skipped, nothing was measured: {error}", file=sys.stderr)
                code = 2
                continue
            content = {**asdict(figure), "environment": environment()}
            (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
            (RESULTS / f"{name}.md").write_text(markdown(figure))
            print(markdown(figure))
    return code


def markdown(figure: Figure) -> str:
    """The figure as a Markdown section."""
    machine = environment()
    keys = list(figure.rows[0])
    lines = [
        f"## {figure.title}",
        "",
        figure.verdict,
        "",
        "| " + " | ".join(keys) + " |",
        "|" + "---|" * len(keys),
        *("| " + " | ".join(str(row[key]) for key in keys) + " |" for row in figure.rows),
        "",
        f"{machine['processor']} ({machine['kernel_class']}), Python {machine['python']}, "
        + ", ".join(f"{name} {version}" for name, version in machine["libraries"].items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
