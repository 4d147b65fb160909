"""Figures: plots as SVG text, drawn by hand so that the page needs no script and no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil
from typing import Any

from harness.estimate import Estimate
from harness.report.build import Report, Row
from harness.report.text import interval, percent, points, short

# Colour-blind-safe (Okabe and Ito); the dash tells lines apart where they lie on each other.
INKS = ("#767676", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7b4173", "#b5bd00")
TICK_WIDTH, TICK_HEIGHT = 6.4, 11.0  # of a letter of a label, in the widest of the usual fonts
PANEL_WIDTH = 226
DASHES = ("", "6 3", "2 3", "8 2 2 2", "1 2", "4 4")
FIRST_HUE = 202  # degrees: blue, and orange opposite for a second engine
SHADES = (36, 76)  # lightness in percent, from the first of a family to its last


def accuracy_panels(report: Report) -> str:
    """One panel per noise: accuracy of every version over its settings, clean pictures first."""
    noises = [noise for noise in dict.fromkeys(row.noise for row in report.of_kind("condition")) if noise != "clean"]
    upright, listed = [], []
    for noise in noises:
        rows = [row for row in report.of_kind("condition") if row.noise == noise]
        marks = [("clean", report.clean)] if report.clean else []
        marks += [(row.setting or row.name, row) for row in rows]
        if PANEL_WIDTH / len(marks) < TICK_HEIGHT:
            listed.append(_listed_panel(noise, marks, report))
        else:
            upright.append(_panel(noise, marks, report))
    return f'<div class="panels">{"".join(upright)}</div><div class="forests">{"".join(listed)}</div>'


def _panel(noise: str, rows: Sequence[tuple[str, Row]], report: Report) -> str:
    ordered = all(row.setting.isdigit() for _, row in rows if row.noise == noise)
    points_at, labels = [row for _, row in rows], [label for label, _ in rows]
    left, top, width, height = 34, 26, PANEL_WIDTH, 130
    step = width / len(rows)
    longest = max(map(len, labels))
    slanted = longest * TICK_WIDTH > step
    foot = 22 if not slanted else 12 + int(longest * TICK_WIDTH)
    marks = [_axis(left, top, width, height)]
    marks += [
        _tick(label, (left + step * (i + 0.5), top + height + (9 if slanted else 14)), slanted=slanted)
        for i, label in enumerate(labels)
    ]
    for index, name in enumerate(report.contenders):
        # Side by side within a setting, so that intervals of versions that agree stay readable.
        shift = (index - (len(report.contenders) - 1) / 2) * min(7.0, step / 6)
        spots = [
            (left + step * (i + 0.5) + shift, row.accuracy[name], f"{short(name, report)}, {labels[i]}")
            for i, row in enumerate(points_at)
        ]
        marks.append(_series(spots, (top, height), index, joined=ordered))
    return (
        f'<svg viewBox="0 0 {left + width + 6} {top + height + foot}" role="img" aria-label="{escape(noise)}">'
        f'<text class="title" x="{left}" y="15">{escape(noise)}</text>{"".join(marks)}</svg>'
    )


def _listed_panel(noise: str, rows: Sequence[tuple[str, Row]], report: Report) -> str:
    """A panel lying on its side, a line per setting: below an upright one so many labels would lie on each other."""
    left, top, line = 12 + ceil(TICK_WIDTH * max(len(label) for label, _ in rows)), 40, 17
    width, height = left + PANEL_WIDTH + 16, top + line * len(rows) + 6
    parts = [f'<text class="title" x="{left}" y="14">{escape(noise)}</text>']
    for value in (0, 25, 50, 75, 100):
        x = left + PANEL_WIDTH * value / 100
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 8}" y2="{height - 6}"/>'
            f'<text class="tick" x="{x:.1f}" y="{top - 12}" text-anchor="middle">{value}</text>'
        )
    apart = (line - 5) / len(report.contenders)
    for position, (label, row) in enumerate(rows):
        y = top + line * (position + 0.5)
        parts.append(f'<text class="tick" x="{left - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>')
        for index, name in enumerate(report.contenders):
            at = y + apart * (index - (len(report.contenders) - 1) / 2)
            mark = (row.accuracy[name], f"{short(name, report)}, {label}")
            parts.append(_lying(mark, (left, at), INKS[index % len(INKS)]))
    return (
        f'<svg class="forest" style="width: {width}px" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(noise)}">{"".join(parts)}</svg>'
    )


def _lying(mark: tuple[Estimate, str], place: tuple[float, float], ink: str) -> str:
    (estimate, label), (left, y) = mark, place
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return ""
    low, middle, high = (left + PANEL_WIDTH * each for each in (estimate.low, estimate.value, estimate.high))
    return (
        f'<g stroke="{ink}" fill="{ink}"><line x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}" '
        f'stroke-opacity="0.55"/><circle cx="{middle:.1f}" cy="{y:.1f}" r="2.4"/>'
        f"<title>{_told(estimate, label)}</title></g>"
    )


def _told(estimate: Estimate, label: str) -> str:
    return f"{escape(label)}: {percent(estimate)} ({interval(estimate)}, n {estimate.n})"


def _tick(label: str, at: tuple[float, float], *, slanted: bool) -> str:
    x, y = at
    place = f'transform="translate({x + 3:.1f} {y:.1f}) rotate(-90)" text-anchor="end"'
    upright = f'x="{x:.1f}" y="{y}" text-anchor="middle"'
    return f'<text class="tick" {place if slanted else upright}>{escape(label)}</text>'


def _axis(left: int, top: int, width: int, height: int) -> str:
    lines = []
    for value in (0, 25, 50, 75, 100):
        y = top + height * (1 - value / 100)
        lines.append(
            f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{left - 5}" y="{y + 3.5:.1f}" text-anchor="end">{value}</text>'
        )
    return "".join(lines)


def _series(spots: Sequence[tuple[float, Estimate, str]], box: tuple[int, int], index: int, *, joined: bool) -> str:
    top, height = box
    ink = INKS[index % len(INKS)]

    def y(value: float) -> float:
        return top + height * (1 - value)

    seen = [(x, e, label) for x, e, label in spots if e.value is not None]
    line = " ".join(f"{x:.1f},{y(e.value or 0):.1f}" for x, e, _ in seen)
    path = (
        f'<polyline points="{line}" fill="none" stroke="{ink}" stroke-width="1.6" '
        f'stroke-dasharray="{DASHES[index % len(DASHES)]}"/>'
        if joined
        else ""
    )
    marks = "".join(
        f'<g stroke="{ink}" fill="{ink}"><line x1="{x:.1f}" x2="{x:.1f}" y1="{y(e.low or 0):.1f}" '
        f'y2="{y(e.high or 0):.1f}" stroke-opacity="0.55"/><circle cx="{x:.1f}" cy="{y(e.value or 0):.1f}" r="2.4"/>'
        f"<title>{_told(e, label)}</title></g>"
        for x, e, label in seen
    )
    return path + marks


def forest(rows: Sequence[tuple[str, Mapping[str, Estimate]]], titles: Mapping[str, str]) -> str:
    """Paired differences with intervals: one panel per title, one line per row, all to one scale.

    Args:
        rows: names, and the differences of each by panel; one may be missing.
        titles: panel -> what it is called.
    """
    if not rows or not titles:
        return ""
    reach = _reach([change for _, changes in rows for change in changes.values()])
    panels = (
        _forest_panel([(name, changes.get(key)) for name, changes in rows], title, reach)
        for key, title in titles.items()
    )
    return f'<div class="forests">{"".join(panels)}</div>'


def _forest_panel(rows: Sequence[tuple[str, Estimate | None]], title: str, reach: float) -> str:
    """One panel, as wide as it is drawn: a page that has no room puts it into the next line."""
    left = 12 + ceil(TICK_WIDTH * max(len(name) for name, _ in rows))
    column, right, line, top = 200, 16, 17, 40
    centre = left + column / 2
    width, height = left + column + right, top + line * len(rows) + 6
    parts = [f'<text class="title" x="{centre}" y="14" text-anchor="middle">{escape(title)}</text>']
    for tick in (-reach, 0.0, reach):
        x = centre + tick / reach * column / 2
        parts.append(
            f'<line class="{"grid" if tick else "zero"}" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 8}" '
            f'y2="{top + line * len(rows)}"/><text class="tick" x="{x:.1f}" y="{top - 12}" '
            f'text-anchor="middle">{f"{100 * tick:+.0f}" if tick else "0"}</text>'
        )
    for position, (name, change) in enumerate(rows):
        y = top + line * (position + 0.5)
        parts.append(f'<text class="tick" x="{left - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        if change is not None:
            parts.append(_whisker(change, (centre, column / 2 / reach, y), name))
    return (
        f'<svg class="forest" style="width: {width}px" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="paired differences: {escape(title)}">{"".join(parts)}</svg>'
    )


def _whisker(change: Estimate, place: tuple[float, float, float], name: str) -> str:
    if change.value is None or change.low is None or change.high is None:
        return ""
    centre, scale, y = place
    kind = "worse" if change.high < 0 else "better" if change.low > 0 else "same"
    return (
        f'<g class="{kind}"><line x1="{centre + change.low * scale:.1f}" x2="{centre + change.high * scale:.1f}" '
        f'y1="{y:.1f}" y2="{y:.1f}"/><circle cx="{centre + change.value * scale:.1f}" cy="{y:.1f}" r="3.4"/>'
        f"<title>{escape(name)}: {points(change)} points, n {change.n}</title></g>"
    )


def _reach(changes: Sequence[Estimate]) -> float:
    """Half the width of the axis: the widest interval, rounded up to a whole number of points."""
    ends = [abs(end) for change in changes for end in (change.low, change.high) if end is not None]
    return max(0.01, -(-max(ends, default=0.01) * 100 // 1) / 100)


def mac_bar(certificate: Mapping[str, Any]) -> str:
    """One bar: every layer as wide as its share of multiply-accumulates, coloured by what ran it."""
    total = certificate["total_macs"] or 1
    x, parts = 0.0, []
    for layer in certificate["layers"]:
        width = 1000 * layer["macs"] / total
        kind = "integer" if layer["integer"] else "float"
        why = "" if layer["integer"] else f": {layer['reason']}"
        parts.append(
            f'<rect class="{kind}" x="{x:.2f}" y="0" width="{max(width, 0.4):.2f}" height="26">'
            f"<title>{escape(layer['layer'])} ({layer['operator']}): {layer['macs']:,} MACs, "
            f"{escape(str(layer['kernel']))} on {', '.join(layer['input_types'])}{escape(why)}</title></rect>"
        )
        x += width
    return f'<svg class="bar" viewBox="0 0 1000 26" preserveAspectRatio="none" role="img">{"".join(parts)}</svg>'


def time_inks(work: Sequence[str]) -> dict[str, str]:
    """Kind of work -> its colour, no two alike: an engine has a hue and its versions shades of it, the rest is grey."""
    families: dict[str, list[str]] = {}
    for name in work:
        families.setdefault(name.rpartition(":")[0], []).append(name)
    inks = _shades("0 0%", families.pop("", []))
    for number, versions in enumerate(families.values()):
        hue = (FIRST_HUE + 360 * number / len(families)) % 360
        inks |= _shades(f"{hue:.0f} 75%", versions)
    return inks


def _shades(tone: str, names: Sequence[str]) -> dict[str, str]:
    """Name -> a shade of one hue and saturation, from dark to light."""
    darkest, lightest = SHADES
    step = (lightest - darkest) / max(1, len(names) - 1)
    return {name: f"hsl({tone} {darkest + step * place:.0f}%)" for place, name in enumerate(names)}


def time_bar(shares: Mapping[str, float]) -> str:
    """One bar of labelled shares that sum to at most one; the rest is idle or overhead."""
    x, parts, inks = 0.0, [], time_inks(list(shares))
    for name, share in shares.items():
        parts.append(
            f'<rect x="{x:.2f}" y="0" width="{1000 * share:.2f}" height="26" fill="{inks[name]}">'
            f"<title>{escape(name)}: {100 * share:.1f} %</title></rect>"
        )
        x += 1000 * share
    return f'<svg class="bar" viewBox="0 0 1000 26" preserveAspectRatio="none" role="img">{"".join(parts)}</svg>'
