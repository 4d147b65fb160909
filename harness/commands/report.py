"""``report``: the reports of a run, made again from its records."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from harness.mismatch import mismatch_from_store
from harness.report.build import report_from_store
from harness.report.markdown import markdown_report
from harness.report.mismatch import terminal_mismatch, write_mismatch
from harness.report.terminal import terminal_report
from harness.report.write import write_reports
from harness.store import Store

if TYPE_CHECKING:
    from harness.commands.options import Commands


def add(commands: Commands) -> None:
    """Describe the command."""
    report = commands.add_parser("report", help="the reports of a run, made again from its records")
    report.add_argument("folder", metavar="RUN")
    form = report.add_mutually_exclusive_group()
    form.add_argument("--html", action="store_true", help="print the path of the HTML page only")
    form.add_argument("--markdown", action="store_true", help="print Markdown")
    form.add_argument("--json", action="store_true", help="print JSON (harness/report/schema.json)")
    form.add_argument("--mismatch", action="store_true", help="rank the conditions by what they cost against clean")
    report.set_defaults(command=_report)


def _report(options: argparse.Namespace, console: Console) -> int:
    store = Store(Path(options.folder))
    if options.mismatch:
        found = mismatch_from_store(store)
        console.print(terminal_mismatch(found))
        console.print(f"\nReport: {write_mismatch(found, store).resolve()}")
        return 0
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
