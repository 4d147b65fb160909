"""Markdown: the report for a pull request or a release note."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.report.build import Report, Row
from harness.report.terminal import summary_rows
from harness.report.text import (
    GRID,
    MOVEMENT,
    STEP_TITLES,
    corrupted_pictures,
    corruption_error_table,
    headline,
    interval,
    movement_table,
    percent,
    points,
    spread_table,
    term_table,
    time_text,
    version,
)
from harness.report.timing import bottleneck


def markdown_report(report: Report) -> str:
    """The whole report as GitHub-flavoured Markdown."""
    model = report.identity["model"]
    sections = [
        f"# Robustness of {model['file']}",
        "\n".join(f"- {line}" for line in headline(report)),
        "\n".join(f"- **{f['severity']}** ({f['check']}): {f['message']}" for f in report.findings),
        "## By noise\n\nTop-1 accuracy; changes in percentage points with 95 % intervals, paired on the same "
        "pictures.\n\n" + _accuracy_tables(report, summary_rows(report), with_interval=False),
        "## By setting\n\n" + _accuracy_tables(report, report.of_kind("condition"), with_interval=True),
        _movement(report),
        _corruption_errors(report),
        _grids(report),
        _certificates(report),
        _errors(report),
        _time(report),
        _provenance(report),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _accuracy_tables(report: Report, rows: Sequence[Row], *, with_interval: bool) -> str:
    tables = []
    for engine in report.engines:
        names = report.contenders_of(engine)
        steps = dict.fromkeys(loss.step for row in rows for loss in row.losses_of(engine))
        header = [engine, *map(version, names), *(STEP_TITLES[step] for step in steps)]
        body = []
        for row in rows:
            accuracies = [
                percent(row.accuracy[name]) + (f" ({interval(row.accuracy[name])})" if with_interval else "")
                for name in names
            ]
            body.append([row.name, *accuracies, *(points(loss.difference) for loss in row.losses_of(engine))])
        tables.append(markdown_table(header, body))
    return "\n\n".join(tables)


def _movement(report: Report) -> str:
    tables = []
    for engine in report.engines:
        header, body = movement_table(summary_rows(report), engine)
        if len(header) > 1:
            tables.append(markdown_table([engine, *header[1:]], body))
    return "\n\n".join(["## What accuracy does not show", MOVEMENT, *tables]) if tables else ""


def _corruption_errors(report: Report) -> str:
    header, body, note = corruption_error_table(report)
    return f"## Corruption errors\n\n{markdown_table(header, body)}\n\n{note}" if body else ""


def _grids(report: Report) -> str:
    tables = [markdown_table(*each(grid)) for grid in report.grids for each in (spread_table, term_table)]
    return "\n\n".join(["## Grids", GRID, *tables]) if tables else ""


def _certificates(report: Report) -> str:
    parts = []
    for name, certificate in report.integer_certificates.items():
        fraction = certificate["integer_fraction"]
        share = "-" if fraction is None else f"{100 * fraction:.2f} %"
        parts.append(
            f"## Integer-execution certificate of {name}\n\n{share} of {certificate['total_macs']:,} "
            f"multiply-accumulates ran on integer kernels, read from the optimised graph and the profile."
        )
        fallbacks = [layer for layer in certificate["layers"] if not layer["integer"]]
        if fallbacks:
            body = [[x["layer"], x["operator"], f"{x['macs']:,}", x["kernel"] or "-", x["reason"]] for x in fallbacks]
            parts.append(markdown_table(["layer in float", "operator", "MACs", "kernel", "reason"], body))
    return "\n\n".join(parts)


def _errors(report: Report) -> str:
    if not report.errors:
        return ""
    body = [[error["error"], str(error["pictures"]), error["first"]] for error in report.errors]
    return "## Failures\n\n" + markdown_table(["error", "pictures", "first"], body)


def _time(report: Report) -> str:
    held = bottleneck(report.timing)
    return f"## Where the time went\n\n{time_text(report.timing)} {held}" if held else ""


def _provenance(report: Report) -> str:
    identity = report.identity
    libraries = ", ".join(f"{name} {value}" for name, value in identity["environment"]["libraries"].items())
    files = [[name, facts["file"], facts["sha256"]] for name, facts in report.contenders.items()]
    lines = [
        "## Provenance",
        f"- pictures: {identity['data']['pictures']} of `{identity['data']['source']}`, "
        f"fingerprint `{identity['data']['fingerprint']}`",
        f"- corrupted pictures: {corrupted_pictures(identity['recipe'])}",
        f"- calibration: {identity['calibration']['pictures']} pictures of `{identity['calibration']['source']}`, "
        f"by {identity['calibration']['method']} under {' + '.join(identity['calibration']['conditions'])}, "
        f"fingerprint `{identity['calibration']['fingerprint']}`",
        f"- seed: {identity['recipe']['seed']}",
        f"- processor: {identity['environment']['processor']} ({identity['environment']['kernel_class']})",
        f"- libraries: {libraries}; {identity['environment']['jpeg']}",
        "",
        markdown_table(["version", "file", "SHA-256"], files),
    ]
    return "\n".join(lines)


def markdown_table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table of GitHub-flavoured Markdown; what would break a cell is escaped."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(header), line("---" for _ in header), *(line(row) for row in body)])
