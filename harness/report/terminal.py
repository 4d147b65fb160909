"""Terminal: the table at the end of a run."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.report.build import Report, Row
from harness.report.text import corruption_error_table, headline, percent, plus_minus, short


def terminal_report(report: Report) -> Group:
    """The report as a person reads it in a terminal: sentences, one line per noise, findings."""
    table = Table(
        title="Top-1 accuracy; changes in points ± the longer side of the 95 % interval",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("noise")
    for name in report.contenders:
        table.add_column(short(name, report), justify="right")
    for step, after in _steps(report):
        engine = after.rpartition(":")[0]
        table.add_column(step if len(report.engines) == 1 else f"{engine} {step}", justify="right")
    for row in summary_rows(report):
        table.add_row(
            row.name,
            *(percent(row.accuracy[name]) for name in report.contenders),
            *(plus_minus(loss.difference) for loss in row.losses if loss.step != "total"),
            end_section=row.noise == "clean",
        )
    findings = [Text(f"{finding['severity']}: {finding['message']}", style="yellow") for finding in report.findings]
    sentences = [Text(f"- {line}") for line in headline(report)]
    return Group(table, *_corruption_errors(report), *sentences, *findings)


def _corruption_errors(report: Report) -> list[Table | Text]:
    header, body, note = corruption_error_table(report)
    if not body:
        return []
    table = Table(*header[:1], box=SIMPLE_HEAD)
    for name in header[1:]:
        table.add_column(name, justify="right")
    for line in body:
        table.add_row(*line)
    return [table, Text(note)]


def summary_rows(report: Report) -> list[Row]:
    """One row per noise: its mean where it has several settings, and the mean over all noises last."""
    averaged = {row.noise for row in report.of_kind("noise")}
    single = [row for row in report.of_kind("condition") if row.noise not in averaged]
    clean = [row for row in single if row.noise == "clean"]
    others = [row for row in single if row.noise != "clean"]
    return [*clean, *others, *report.of_kind("noise"), *report.of_kind("all")]


def _steps(report: Report) -> list[tuple[str, str]]:
    """The changes that the table shows; the total is their sum and stands in the sentences."""
    losses = report.rows[0].losses if report.rows else ()
    return [(loss.step, loss.after) for loss in losses if loss.step != "total"]
