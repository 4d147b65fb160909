"""What attacks left standing, for a terminal and as a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.adversarial.masking import FAILED, GENUINE, MASKED, PASSED, RANDOMNESS
from harness.adversarial.metrics import BudgetResult, OnSource, Robustness, SetResult
from harness.adversarial.session import Outcome
from harness.estimate import Estimate
from harness.report.html import document, findings, table
from harness.report.text import interval, percent, points, version
from harness.store import Store

HTML, JSON = "attack.html", "attack.json"
ATTACK_VERSION = 1
WORST = "worst of all"
STRANGER = "*"  # behind a set from a twin that does not speak for its engine


def write_attack(outcome: Outcome, store: Store) -> Path:
    """Write page and JSON into the folder of the attacks; returns the path of the page."""
    content = {
        "attack_version": ATTACK_VERSION,
        **outcome.found.describe(),
        "twins": outcome.twins,
        "masking": outcome.masking,
        "findings": [{"severity": "warning", "check": check, "message": text} for check, text in warnings(outcome)],
    }
    store.write_text(JSON, json.dumps(content, indent=1))
    return store.write_text(HTML, attack_page(outcome))


def terminal_attack(outcome: Outcome) -> Group:
    """Robust accuracy of every contender under every set, then what there is to know."""
    parts: list[Table | Text] = []
    names = outcome.found.contenders
    for budget in outcome.found.budgets:
        listed = Table(title=_title(budget), title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
        listed.add_column("attack on source")
        listed.add_column("source", justify="right")
        for name in names:
            listed.add_column(_short(name, outcome), justify="right")
        listed.add_column("queries", justify="right")
        for each in budget.sets:
            cells = [_bare(each.contenders[name].robust) for name in names]
            asked = f"{each.on_source.total_queries:,}" if each.on_source.queries else "-"
            listed.add_row(_set_text(each, outcome), _bare(each.on_source.stored), *cells, asked)
        listed.add_row(WORST, "", *(_bare(budget.worst[name].robust) for name in names), "")
        parts += [listed, *(Text(note) for note in _footnotes(budget, outcome)), Text()]
    parts += [Text(f"- {line}") for line in headline(outcome)]
    parts += [Text(f"warning: {text}", style="yellow") for _, text in warnings(outcome)]
    return Group(*parts)


def headline(outcome: Outcome) -> list[str]:
    """What a person wants to know first, in sentences."""
    found = outcome.found
    n = next(iter(found.clean.values())).n
    clean = ", ".join(f"{percent(each)} on {_short(name, outcome)}" for name, each in found.clean.items())
    lines = [f"{n} pictures; without an attack {clean} are right."]
    for budget in found.budgets:
        worst = ", ".join(f"{percent(budget.worst[name].robust)} on {_short(name, outcome)}" for name in budget.worst)
        lines.append(f"{budget.budget}: what survives every set is {worst}.")
        for engine, gap in budget.worst_gaps.items():
            lines.append(
                f"{budget.budget}, {engine}: integer minus fp32 {points(gap.difference)} points; of the pictures that "
                f"both read right, {gap.only_fp32_falls} fall on fp32 alone and {gap.only_integer_falls} on integer "
                f"alone."
            )
    lines += [f"{twin}: {_gate_text(gate)}." for twin, gate in outcome.twins.items() if gate["speaks"]]
    for contender, verdict in outcome.masking.items():
        lines.append(f"Robustness of {_short(contender, outcome)}: {_verdict_text(verdict)}.")
    return lines


def _verdict_text(verdict: Mapping[str, Any]) -> str:
    """What the checks saw, and on how many pictures: none of them proves that there is no masking."""
    if verdict["verdict"] == GENUINE:
        (n,) = {check["numbers"]["n"] for check in verdict["checks"] if check["name"] == RANDOMNESS}
        return f"no sign of masking on {n} pictures"
    because = ", ".join(check["name"] for check in verdict["checks"] if check["outcome"] != PASSED)
    return f"{verdict['verdict']} ({because})"


def _gate_text(gate: Mapping[str, Any]) -> str:
    low, high = gate["agreement_interval"]
    return f"{gate['reason']}; the agreement's 95 % interval is {low:.1%} to {high:.1%}"


def warnings(outcome: Outcome) -> list[tuple[str, str]]:
    """What a reader must not overlook: (check, text)."""
    found = [("parity", f"{twin}: {_gate_text(gate)}") for twin, gate in outcome.twins.items() if not gate["speaks"]]
    for budget in outcome.found.budgets:
        if budget.sets[0].made["below_a_level"]:
            text = (
                f"{budget.budget} is less than one grey level: an 8-bit picture cannot carry it, so what an attack "
                f"finds in floating point cannot be delivered to a device"
            )
            found.append(("budget", text))
    for contender, verdict in outcome.masking.items():
        if verdict["verdict"] == MASKED:
            evidence = "; ".join(each["evidence"] for each in verdict["checks"] if each["outcome"] == FAILED)
            found.append(("masking", f"{contender} looks more robust than it is: {evidence}"))
    return found


def _title(budget: BudgetResult) -> str:
    return (
        f"{budget.budget}: right without an attack and under it, percent of 8-bit pictures; source: what was attacked"
    )


def _bare(estimate: Estimate) -> str:
    return percent(estimate).removesuffix(" %")


def _short(name: str, outcome: Outcome) -> str:
    engines = {each.rpartition(":")[0] for each in outcome.found.contenders}
    return version(name) if len(engines) == 1 else name


def _set_text(each: SetResult, outcome: Outcome) -> str:
    start = each.made["start"]
    first = f"{start['made']['attack']}, then " if start else ""
    return f"{first}{each.made['attack']} on {each.made['source']['name']}{'' if _speaks(each, outcome) else STRANGER}"


def _speaks(each: SetResult, outcome: Outcome) -> bool:
    """Whether a set was made on no twin that lacks parity with its engine; that of a surrogate has none."""
    gate = outcome.twins.get(each.made["source"]["name"])
    return gate is None or bool(gate["speaks"])


def _footnotes(budget: BudgetResult, outcome: Outcome) -> list[str]:
    if all(_speaks(each, outcome) for each in budget.sets):
        return []
    return [f"{STRANGER} made on a twin that does not speak for its engine: a good twin might have found more"]


def _queries(source: OnSource) -> str:
    if source.queries is None:
        return "-"
    median = "none fell" if source.median_queries is None else f"{source.median_queries:.0f}"
    return f"{source.total_queries:,} ({median})"


def attack_page(outcome: Outcome) -> str:
    """Everything as one HTML file."""
    identity = outcome.found.identity
    model = identity["model"]["file"]
    listed = findings({"severity": "warning", "check": check, "message": text} for check, text in warnings(outcome))
    body = (
        f"<h1>Adversarial robustness of {escape(model)}</h1>"
        f"<p class='soft'>{identity['data']['pictures']} pictures of "
        f"<code>{escape(identity['data']['source'])}</code></p>"
        "<ul class='headline'>" + "".join(f"<li>{escape(line)}</li>" for line in headline(outcome)) + "</ul>"
        f"{listed}{''.join(_budget(each, outcome) for each in outcome.found.budgets)}"
        f"{_masking(outcome)}{_twins(outcome)}{_sets(outcome)}"
        "<p class='soft'>Shares carry 95 % Wilson intervals, differences are paired on the same pictures and carry "
        "Bonett-Price intervals. A picture that fails is wrong. The same numbers are in <code>attack.json</code>, "
        "attacked pictures in <code>sets/</code>, every answer in <code>runs/*/parts/*.parquet</code>.</p>"
    )
    return document(f"{model}: adversarial robustness", body)


def _budget(budget: BudgetResult, outcome: Outcome) -> str:
    names = outcome.found.contenders
    engines = list(budget.worst_gaps)
    header = [
        "attack on source",
        "at source, in float",
        "at source, 8-bit",
        *(f"{name}: robust" for name in names),
        *(f"{engine}: integer minus fp32, points" for engine in engines),
        *(f"{engine}: falls on fp32 / integer alone" for engine in engines),
    ]
    lines = [("", [escape(_set_text(each, outcome)), *_line(each, names, engines)]) for each in budget.sets]
    gaps = [budget.worst_gaps[engine] for engine in engines]
    worst = [f"<b>{WORST}</b>", "", "", *(_share(budget.worst[name].robust) for name in names)]
    worst += [*(points(gap.difference) for gap in gaps)]
    worst += [f"{gap.only_fp32_falls} / {gap.only_integer_falls}" for gap in gaps]
    return (
        f"<h2>{escape(budget.budget)}</h2><p>Pictures that are right without an attack and under it, of all: "
        "one that is misread anyway has not survived. Every set was given to every contender: rows are sources, "
        "columns targets. <b>At source</b> is the model that was attacked, before and after the picture was rounded to "
        "8 bits. A picture survives the worst of all if it is right without an attack and in every set.</p>"
        f"{table(header, [*lines, ('all', worst)])}"
        + "".join(f"<p class='soft'>{escape(note)}</p>" for note in _footnotes(budget, outcome))
        + _conditional(budget, outcome)
    )


def _line(each: SetResult, names: tuple[str, ...], engines: list[str]) -> list[str]:
    source = each.on_source
    gaps = [each.gaps[engine] for engine in engines]
    return [
        _share(source.attacked),
        _share(source.stored),
        *(_share(each.contenders[name].robust) for name in names),
        *(points(gap.difference) for gap in gaps),
        *(f"{gap.only_fp32_falls} / {gap.only_integer_falls}" for gap in gaps),
    ]


def _conditional(budget: BudgetResult, outcome: Outcome) -> str:
    """AR, on each contender's own pictures and on common ones."""
    names = outcome.found.contenders

    def cells(left: dict[str, Robustness] | Any) -> list[str]:
        return [text for name in names for text in (_counted(left[name].conditional), _counted(left[name].common))]

    header = ["attack on source", *(text for name in names for text in (f"{name}: AR", "on common pictures"))]
    lines = [("", [escape(_set_text(each, outcome)), *cells(each.contenders)]) for each in budget.sets]
    return (
        "<details><summary>AR: of the pictures that are right without an attack</summary><p>As RobustART defines it, "
        "for each contender on its own such pictures, and on those that all contenders read right.</p>"
        f"{table(header, [*lines, ('all', [f'<b>{WORST}</b>', *cells(budget.worst)])])}</details>"
    )


def _masking(outcome: Outcome) -> str:
    parts = []
    for contender, verdict in outcome.masking.items():
        kind = "good" if verdict["verdict"] == GENUINE else "bad"
        lines = [
            ("", [escape(each["name"]), escape(each["outcome"]), _text(each["evidence"])]) for each in verdict["checks"]
        ]
        parts.append(
            f"<h3>{escape(contender)}: <span class='{kind}'>{escape(verdict['verdict'])}</span></h3>"
            f"{table(['check', 'outcome', 'evidence'], lines, sentences=('evidence',))}"
        )
    if not parts:
        return ""
    return (
        "<h2>Is the robustness genuine?</h2><p>Rounding has no gradient; a model that leads attacks astray looks "
        "robust and is not. Experiments on a few of the pictures:</p>" + "".join(parts)
    )


def _twins(outcome: Outcome) -> str:
    if not outcome.twins:
        return ""
    lines = [
        ("", [escape(twin), escape(gate["engine"]), "yes" if gate["speaks"] else "<b>no</b>", _text(_gate_text(gate))])
        for twin, gate in outcome.twins.items()
    ]
    return "<h2>Do the twins speak for their engines?</h2>" + table(
        ["twin", "engine", "speaks", "because"], lines, sentences=("because",)
    )


def _sets(outcome: Outcome) -> str:
    header = [
        "set",
        "pictures",
        "failed",
        "distance of 8-bit pictures",
        "queries per picture",
        "in all (median of the fallen)",
    ]
    lines = []
    for budget in outcome.found.budgets:
        for each in budget.sets:
            source = each.on_source
            spent = "-" if source.queries is None else f"{source.queries.value or 0:,.1f}"
            distance = f"{source.distance.value or 0:.4g} <small>{escape(source.distance.unit)}</small>"
            cells = [escape(each.name), str(source.clean.n), str(source.clean.failed), distance, spent]
            lines.append(("", [*cells, _queries(source)]))
    return f"<h2>The sets</h2>{table(header, lines)}"


def _text(sentence: str) -> str:
    return f"<div class='evidence'>{escape(sentence)}</div>"


def _share(estimate: Estimate) -> str:
    return f"{percent(estimate)} <small>{interval(estimate)}</small>"


def _counted(estimate: Estimate) -> str:
    return f"{percent(estimate)} <small>{interval(estimate)}, n {estimate.n}</small>"
