"""Page: the report as one HTML file that opens from disk, with no script and nothing to fetch."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from harness.estimate import Estimate
from harness.plan import VERSIONS
from harness.report.build import Report, Row
from harness.report.figures import DASHES, INKS, accuracy_panels, forest, mac_bar, time_bar, time_inks
from harness.report.html import document, findings, table
from harness.report.terminal import summary_rows
from harness.report.text import (
    GRID,
    MOVEMENT,
    STEP_TITLES,
    corrupted_pictures,
    corruption_error_table,
    counted,
    headline,
    interval,
    movement_table,
    percent,
    short,
    signed,
    spread_table,
    term_table,
    time_text,
    version,
)
from harness.report.timing import bottleneck


def page(report: Report) -> str:
    """The whole report as HTML."""
    name = report.identity["model"]["file"]
    body = "".join(
        (
            f"<h1>Robustness of {escape(name)}</h1>",
            _subtitle(report),
            "<ul class='headline'>" + "".join(f"<li>{escape(x)}</li>" for x in headline(report)) + "</ul>",
            findings(report.findings),
            _summary(report),
            _panels(report),
            _forest(report),
            _movement(report),
            _corruption_errors(report),
            _grids(report),
            _certificates(report),
            _settings(report),
            _failures(report),
            _time(report),
            _provenance(report),
        )
    )
    return document(f"{name}: robustness", body)


def _subtitle(report: Report) -> str:
    data, machine = report.identity["data"], report.identity["environment"]
    return (
        f"<p class='soft'>{counted(report.pictures, 'picture')} of <code>{escape(data['source'])}</code> on "
        f"{escape(machine['processor'])} ({escape(machine['kernel_class'])})</p>"
    )


def _summary(report: Report) -> str:
    return (
        "<h2>By noise</h2><p>Top-1 accuracy. A noise with several settings is shown by their mean. Changes are "
        "paired on the same pictures, in percentage points, with 95 % intervals; a negative number is a loss.</p>"
        + _accuracy_tables(report, summary_rows(report))
    )


def _accuracy_tables(report: Report, rows: Sequence[Row]) -> str:
    return "".join(_accuracy_table(report, rows, engine) for engine in report.engines)


def _accuracy_table(report: Report, rows: Sequence[Row], engine: str) -> str:
    names = report.contenders_of(engine)
    steps = dict.fromkeys(loss.step for row in rows for loss in row.losses_of(engine))
    header = [engine, *map(version, names), *(STEP_TITLES[step] for step in steps), "n", "failed"]
    lines = []
    for row in rows:
        estimates = [row.accuracy[name] for name in names]
        cells = [escape(row.name), *(_share_cell(each) for each in estimates)]
        cells += [_change_cell(loss.difference) for loss in row.losses_of(engine)]
        cells += [str(max(each.n for each in estimates)), str(max(each.failed for each in estimates))]
        lines.append((row.kind, cells))
    return table(header, lines)


def _share_cell(estimate: Estimate) -> str:
    return f"{percent(estimate)} <small>{interval(estimate)}</small>"


def _change_cell(estimate: Estimate) -> str:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "-"
    return f"{signed(estimate.value)} <small>{signed(estimate.low)} to {signed(estimate.high)}</small>"


def _panels(report: Report) -> str:
    keys = "".join(
        f"<span><svg viewBox='0 0 34 10'><line x1='0' x2='34' y1='5' y2='5' stroke='{INKS[i % len(INKS)]}' "
        f"stroke-width='2' stroke-dasharray='{DASHES[i % len(DASHES)]}'/></svg>{escape(short(name, report))}: "
        f"{escape(VERSIONS.get(name.rpartition(':')[2], ''))}</span>"
        for i, name in enumerate(report.contenders)
    )
    return (
        "<h2>Accuracy under noise</h2><p class='soft'>Percent right over the settings of each noise, with 95 % "
        f"intervals.</p><div class='legend'>{keys}</div>{accuracy_panels(report)}"
    )


def _forest(report: Report) -> str:
    rows = [*report.of_kind("condition"), *report.of_kind("all")]
    forests = []
    for engine in report.engines:
        titles = {
            f"{loss.step} {loss.after}": loss.step if len(report.engines) == 1 else f"{engine} {loss.step}"
            for row in rows
            for loss in row.losses_of(engine)
            if loss.step != "total"
        }
        changes = [(row.name, {f"{each.step} {each.after}": each.difference for each in row.losses}) for row in rows]
        forests.append(forest(changes, titles))
    if not any(forests):
        return ""
    return (
        "<h2>Where accuracy is lost</h2><p>Percentage points gained or lost on the same pictures, with 95 % "
        "intervals. <b>Quantisation</b> is what rounding to 8 bits costs when the rounded numbers are computed in "
        "floating point; <b>kernel</b> is what going to integer kernels adds to that"
        + (
            "; <b>engine</b> is what running integers here instead of on the first engine does"
            if len(report.engines) > 1
            else ""
        )
        + ". Grey intervals include zero.</p>"
        + "".join(forests)
    )


def _movement(report: Report) -> str:
    tables = []
    for engine in report.engines:
        header, body = movement_table(summary_rows(report), engine, _share_cell)
        lines = (("", [escape(name), *cells]) for name, *cells in body)
        if len(header) > 1:
            tables.append(table([engine, *header[1:]], lines))
    return f"<h2>What accuracy does not show</h2><p>{escape(MOVEMENT)}</p>{''.join(tables)}" if tables else ""


def _corruption_errors(report: Report) -> str:
    header, body, note = corruption_error_table(report)
    if not body:
        return ""
    lines = [("all" if "mCE" in line[0] else "condition", [escape(cell) for cell in line]) for line in body]
    return f"<h2>Corruption errors</h2><p>{escape(note)}</p>{table(header, lines)}"


def _grids(report: Report) -> str:
    tables = []
    for grid in report.grids:
        for header, body in (spread_table(grid), term_table(grid)):
            tables.append(table(header, [("", [escape(cell) for cell in line]) for line in body]))
    return f"<h2>Grids</h2><p>{escape(GRID)}</p>{''.join(tables)}" if tables else ""


def _certificates(report: Report) -> str:
    parts = []
    for name, certificate in report.integer_certificates.items():
        fraction = certificate["integer_fraction"]
        share = "no multiply-accumulates" if fraction is None else f"{100 * fraction:.2f} % of the work"
        evidence = certificate["evidence"]
        header = ["layer", "operator", "MACs", "kernel that ran", "fed with", "integer", "reason"]
        lines = [
            (
                "",
                [
                    escape(x["layer"]),
                    x["operator"],
                    f"{x['macs']:,}",
                    escape(x["kernel"] or "-"),
                    " × ".join(x["input_types"]) or "-",
                    "yes" if x["integer"] else "no",
                    escape(x["reason"] or ""),
                ],
            )
            for x in certificate["layers"]
        ]
        others = ", ".join(f"{escape(kernel)} × {count}" for kernel, count in certificate["other_kernels"].items())
        parts.append(
            f"<h2>Integer-execution certificate of {escape(name)}</h2><p><b>{share}</b> "
            f"({certificate['integer_macs']:,} of {certificate['total_macs']:,} multiply-accumulates per picture) "
            f"ran on integer kernels. Read from the optimised graph and the profile of {escape(evidence['runtime'])}, "
            f"{escape(evidence['provider'])}, {escape(evidence['kernel_class'])}.</p>{mac_bar(certificate)}"
            "<div class='legend'><span><i class='swatch' style='background:var(--good)'></i>integer</span>"
            "<span><i class='swatch' style='background:var(--bad)'></i>float</span>"
            "<span>width: share of multiply-accumulates</span></div>"
            f"<details><summary>All {len(lines)} layers</summary>{table(header, lines)}"
            f"<p class='soft'>Other kernels that ran: {others}</p></details>"
        )
    return "".join(parts)


def _settings(report: Report) -> str:
    rows = report.of_kind("condition")
    return (
        f"<h2>Every setting</h2><details><summary>{counted(len(rows), 'condition')}</summary>"
        f"{_accuracy_tables(report, rows)}</details>"
    )


def _failures(report: Report) -> str:
    converted = {source: n for source, n in report.sources.items() if source.split(" ")[-1] != "RGB"}
    parts = []
    if converted:
        listed = ", ".join(f"{count} × {escape(source)}" for source, count in converted.items())
        parts.append(f"<p>Pictures that are not plain RGB files: {listed}.</p>")
    if report.errors:
        lines = [("", [escape(x["error"]), str(x["pictures"]), escape(x["first"])]) for x in report.errors]
        parts.append("<p>A failed picture counts as a wrong answer of every version.</p>")
        parts.append(table(["error", "pictures", "first"], lines))
    return "<h2>Pictures that needed attention</h2>" + "".join(parts) if parts else ""


def _time(report: Report) -> str:
    timing = report.timing
    work = timing["work_seconds"]
    if not work or not timing["wall_seconds"]:
        return ""
    shares = {name: seconds / sum(work.values()) for name, seconds in work.items()}
    inks = time_inks(list(shares))
    keys = "".join(
        f"<span><i class='swatch' style='background:{inks[name]}'></i>{escape(name)} {100 * share:.1f} %</span>"
        for name, share in shares.items()
    )
    busy = [("", [f"engine {escape(name)}", _share(share)]) for name, share in timing["busy_share"].items()]
    busy += [
        ("", [escape(what), _share(timing[key])])
        for what, key in (
            ("engines together", "engines_share"),
            (counted(timing["cores"], "core"), "cores_share"),
            ("callers without a picture to work on", "starved_share"),
            ("workers without room for another picture", "blocked_share"),
        )
    ]
    depth = timing["queue_depth"]
    waiting = "" if depth is None else f" On average {depth:.1f} batches were ready when one was taken."
    return (
        f"<h2>Where the time went</h2><p>{escape(time_text(timing))}{waiting} <b>{escape(bottleneck(timing))}</b></p>"
        f"{time_bar(shares)}<div class='legend'>{keys}</div>{table(['', 'share of the time'], busy)}"
    )


def _share(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _provenance(report: Report) -> str:
    identity = report.identity
    facts = {
        "model": f"{identity['model']['file']} ({identity['model']['output_kind']}, "
        f"{identity['model']['classes']} classes), SHA-256 {identity['model']['sha256']}",
        "pictures": f"{identity['data']['pictures']} of {identity['data']['source']}, fingerprint "
        f"{identity['data']['fingerprint']}",
        "corrupted pictures": corrupted_pictures(identity["recipe"]),
        "calibration": f"{identity['calibration']['pictures']} of {identity['calibration']['source']}, by "
        f"{identity['calibration']['method']} under {' + '.join(identity['calibration']['conditions'])}, fingerprint "
        f"{identity['calibration']['fingerprint']}",
        "preprocessing": " → ".join(
            f"{step['stage']}.{step['name']}({', '.join(f'{k}={v}' for k, v in step['params'].items())})"
            for step in identity["preprocessing"]
        ),
        "seed": str(identity["recipe"]["seed"]),
        "machine": f"{identity['environment']['processor']}, {identity['environment']['machine']}, "
        f"{identity['environment']['kernel_class']}",
        "libraries": ", ".join(f"{k} {v}" for k, v in identity["environment"]["libraries"].items())
        + f", {identity['environment']['jpeg']}, Python {identity['environment']['python']}",
    }
    for name, contender in report.contenders.items():
        live = ", ".join(f"{k} {v}" for k, v in contender["facts"].items())
        facts[name] = f"{contender['file']}, SHA-256 {contender['sha256']}; {live}"
    listed = "".join(f"<dt>{escape(k)}</dt><dd><code>{escape(v)}</code></dd>" for k, v in facts.items())
    return (
        f"<h2>Provenance</h2><dl>{listed}</dl><p class='soft'>Accuracies carry 95 % Wilson intervals; differences are "
        "paired and carry Bonett-Price intervals; several settings of one picture count as one observation. The "
        "same numbers are in <code>report.json</code>, every answer is in <code>parts/*.parquet</code>.</p>"
    )
