"""The ranking of swaps, for a terminal and as a page."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.estimate import CONFIDENCE, Estimate
from harness.mismatch import Effect, Mismatch, Swap, step_text
from harness.plan import FP32
from harness.report.figures import forest
from harness.report.html import document, findings, table
from harness.report.text import counted, interval, percent, plus_minus, points, version
from harness.store import Store

HTML, JSON = "mismatch.html", "mismatch.json"
SHOWN = 20  # swaps in a terminal


def write_mismatch(found: Mismatch, store: Store) -> Path:
    """Write page and JSON into the run's folder; returns the path of the page."""
    store.write_text(JSON, json.dumps(found.describe(), indent=1))
    return store.write_text(HTML, mismatch_page(found))


def terminal_mismatch(found: Mismatch) -> Group:
    """The most expensive swaps as a table of the shipped version, fp32 beside it, then what there is to know."""
    listed = Table(
        title=f"{found.shipped}, most expensive first: points ± longer side of 95 % interval; predictions flipped, and "
        "the rank by these",
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    listed.add_column("")
    listed.add_column("swap", overflow="fold")  # alone gives way where a terminal is narrow
    names = _in_terminal(found)
    rejecting = any(swap.effects[found.shipped].rejected for swap in found.swaps)
    columns = [each for name in names for each in (version(name), "flips")]
    for title in (*columns, "rank", *(["fail"] if rejecting else [])):
        listed.add_column(title, justify="right", no_wrap=True)
    ranks = found.flip_ranks
    for rank, swap in enumerate(found.swaps[:SHOWN], start=1):
        effects = [swap.effects[name] for name in names]
        cells = [text for each in effects for text in (plus_minus(each.difference), percent(each.flipped))]
        failed = [str(swap.effects[found.shipped].rejected)] if rejecting else []
        listed.add_row(str(rank), swap.name, *cells, str(ranks[swap.name]), *failed)
    warnings = [Text(f"{each['severity']}: {each['message']}", style="yellow") for each in found.findings]
    lines = (Text(f"- {line}") for line in (*_on_the_page(found), *headline(found)))
    return Group(listed, *lines, *warnings)


def _in_terminal(found: Mismatch) -> list[str]:
    """The shipped contender, behind the fp32 version on its engine where there is one."""
    fp32 = f"{found.shipped.rpartition(':')[0]}:{FP32}"
    return [name for name in found.contenders if name in (fp32, found.shipped)]


def _on_the_page(found: Mismatch) -> list[str]:
    """What has no room in a terminal."""
    swaps, others = len(found.swaps) - SHOWN, [name for name in found.contenders if name not in _in_terminal(found)]
    left_out = [counted(swaps, "more swap")] if swaps > 0 else []
    left_out += [f"what all of them do to {', '.join(others)}"] if others else []
    return [f"On the page: {' and '.join(left_out)}."] if left_out else []


def headline(found: Mismatch) -> list[str]:
    """What a person wants to know first, in sentences."""
    lines = [f"{found.pictures} pictures; {len(found.swaps)} swaps of what {_declarer(found)} declares."]
    if found.swaps:
        worst = found.swaps[0]
        effect = worst.effects[found.shipped]
        lines.append(
            f"The most expensive is {worst.name}: {points(effect.difference)} points on {found.shipped}, "
            f"{percent(effect.flipped)} of its predictions flipped."
        )
        certain = [swap for swap in found.swaps if _certain(swap.effects[found.shipped])]
        lines.append(
            f"{len(certain)} of {len(found.swaps)} swaps lose accuracy with an interval below zero. Every interval "
            f"stands for itself: of {len(found.swaps)} without any effect "
            f"{(1 - CONFIDENCE) / 2 * len(found.swaps):.1f} would look so by chance."
        )
    effects = {swap.name: swap.effects[found.shipped] for swap in found.swaps}
    rejecting = {name: effect for name, effect in effects.items() if effect.rejected}
    if rejecting:
        listed = ", ".join(f"{name} ({effect.rejected})" for name, effect in rejecting.items())
        lines.append(f"Pictures that a swap cannot read count as wrong: {listed}.")
    unusable = [name for name, effect in rejecting.items() if effect.unusable]
    if unusable:
        lines.append(f"Unusable here, and ranked behind all others: {', '.join(unusable)}; most pictures fail.")
    if found.unchanged:
        lines.append(f"Did nothing, every answer to every picture is the same: {', '.join(found.unchanged)}.")
    if found.declared:
        lines.append(f"Already what is declared: {', '.join(found.declared)}.")
    return lines


def _declarer(found: Mismatch) -> str:
    preset = found.identity["recipe"]["preprocess"]
    return f"the preset {preset!r}" if preset else str(found.identity["model"]["file"])


def _certain(effect: Effect) -> bool:
    return effect.difference.high is not None and effect.difference.high < 0


def mismatch_page(found: Mismatch) -> str:
    """The whole ranking as one HTML file."""
    model = found.identity["model"]["file"]
    body = (
        f"<h1>What a preprocessing mismatch costs {escape(model)}</h1>"
        f"<p class='soft'>{found.pictures} pictures of <code>{escape(found.identity['data']['source'])}</code></p>"
        "<ul class='headline'>" + "".join(f"<li>{escape(line)}</li>" for line in headline(found)) + "</ul>"
        f"{findings(found.findings)}{_declared(found)}{_ranking(found)}{_forest(found)}"
        "<p class='soft'>Differences are paired on the same pictures and carry 95 % Bonett-Price intervals, shares "
        "Wilson intervals. A picture that fails is wrong, and flipped where it fails under one of the two. The same "
        "numbers are in <code>mismatch.json</code>, every answer is in <code>parts/*.parquet</code>.</p>"
    )
    return document(f"{model}: preprocessing mismatch", body)


def _declared(found: Mismatch) -> str:
    steps = "".join(f"<li><code>{escape(step_text(step))}</code></li>" for step in found.identity["preprocessing"])
    return f"<h2>What is declared</h2><ol>{steps}</ol>"


def _ranking(found: Mismatch) -> str:
    per_contender = [title for name in found.contenders for title in (f"{name}, points", "predictions flipped")]
    engines = list(found.swaps[0].added) if found.swaps else []
    extra = [f"{engine}: integer minus fp32, points" for engine in engines]
    header = ["swap", *per_contender, *extra, "better / worse", "n", "failed / by the swap", "rank by flips"]
    ranks = found.flip_ranks
    lines = [("", [_name(swap), *_cells(swap, found, engines), str(ranks[swap.name])]) for swap in found.swaps]
    return (
        "<h2>Ranking</h2><p>A swap changes what stands below its name and leaves all else. The first is the most "
        f"expensive on <b>{escape(found.shipped)}</b>. <b>Integer minus fp32</b> is what quantisation adds to the "
        f"effect: below zero, the swap hurts the integer version more.</p>{table(header, lines)}"
    )


def _name(swap: Swap) -> str:
    return f"<div class='swap'>{escape(swap.name)}<small>{escape(swap.change)}</small></div>"


def _cells(swap: Swap, found: Mismatch, engines: list[str]) -> list[str]:
    effects = [swap.effects[name] for name in found.contenders]
    cells = [text for each in effects for text in (points(each.difference), _share(each.flipped))]
    shipped = swap.effects[found.shipped]
    failed = f"{shipped.difference.failed} / {shipped.rejected}"
    counts = (f"{shipped.better} / {shipped.worse}", shipped.difference.n, failed)
    return [*cells, *(points(swap.added[engine]) for engine in engines), *map(str, counts)]


def _share(estimate: Estimate) -> str:
    return f"{percent(estimate)} <small>{interval(estimate)}</small>"


def _forest(found: Mismatch) -> str:
    rows = [(swap.name, {name: effect.difference for name, effect in swap.effects.items()}) for swap in found.swaps]
    drawn = forest(rows, {name: name for name in found.contenders})
    return (
        "<h2>Side by side</h2><p>Percentage points that each swap costs each version; grey intervals include zero.</p>"
        f"{drawn}"
    )
