"""Terminal: the table at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.report.build import Report, Row
from harness.report.text import (
    corruption_error_table,
    headline,
    percent,
    plus_minus,
    spread_table,
    term_table,
    version,
)
from harness.report.timing import bottleneck


def terminal_report(report: Report) -> Group:
    """The report as a person reads it in a terminal: sentences, one line per noise, findings."""
    tables = [each for engine in report.engines for each in (_accuracies(report, engine), Text())]
    findings = [Text(f"{finding['severity']}: {finding['message']}", style="yellow") for finding in report.findings]
    sentences = [Text(f"- {line}") for line in (*headline(report), bottleneck(report.timing)) if line]
    return Group(*tables, *_corruption_errors(report), *_grids(report), *sentences, *findings)


def _accuracies(report: Report, engine: str) -> Table:
    """One engine's versions, and what going from one to the next changed; the total is the sum of these changes."""
    names, rows = report.contenders_of(engine), summary_rows(report)
    losses = {row.name: [loss for loss in row.losses_of(engine) if loss.step != "total"] for row in rows}
    table = Table(
        title=f"{engine}: top-1 accuracy; changes in points ± longer side of 95 % interval",
        title_justify="left",
        box=SIMPLE_HEAD,
        # One space between columns: three versions and three changes fill eighty columns.
        padding=0,
        show_edge=False,
    )
    table.add_column("noise", overflow="fold")
    for title in (*map(version, names), *(loss.step for loss in losses[rows[0].name])):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        accuracies = (percent(row.accuracy[name]) for name in names)
        changes = (plus_minus(loss.difference) for loss in losses[row.name])
        table.add_row(row.name, *accuracies, *changes, end_section=row.noise == "clean")
    return table


def _corruption_errors(report: Report) -> list[Table | Text]:
    header, body, note = corruption_error_table(report)
    return [_table(header, body), Text(note)] if body else []


def _grids(report: Report) -> list[Table]:
    tables = (each(grid) for grid in report.grids for each in (spread_table, term_table))
    return [_table(header, body) for header, body in tables if body]


def _table(header: Sequence[str], body: Sequence[Sequence[str]]) -> Table:
    table = Table(*header[:1], box=SIMPLE_HEAD)
    for name in header[1:]:
        table.add_column(name, justify="right", overflow="fold")  # names of settings are one long word
    for line in body:
        table.add_row(*line)
    return table


def summary_rows(report: Report) -> list[Row]:
    """One row per noise: its mean where it has several settings, and the mean over all noises last."""
    averaged = {row.noise for row in report.of_kind("noise")}
    single = [row for row in report.of_kind("condition") if row.noise not in averaged]
    clean = [row for row in single if row.noise == "clean"]
    others = [row for row in single if row.noise != "clean"]
    return [*clean, *others, *report.of_kind("noise"), *report.of_kind("all")]
