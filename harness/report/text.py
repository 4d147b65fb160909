"""Words and numbers: how every form of the report writes an estimate, and the sentences at its head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.estimate import Estimate
from harness.mce import missing_corruptions
from harness.plan import FP32, INTEGER, SIMULATED
from harness.recipe import IN_MEMORY
from harness.report.build import ENGINE_STEP, Loss, Report, Row
from harness.report.grid import Grid
from harness.report.timing import staff_text

STEP_TITLES = {
    "quantisation": "quantisation (fp32 → simulated)",
    "kernel": "kernel (simulated → integer)",
    "total": "total (fp32 → integer)",
    "engine": "engine (first engine → here)",
}
MOVEMENT = (
    "Predictions that changed, right or wrong, and how far logits moved: |after - before| / |before|, each without its "
    "mean, averaged over pictures; 95 % intervals."
)
ORDER = (FP32, SIMULATED, INTEGER)


def percent(estimate: Estimate) -> str:
    """An accuracy: ``93.2 %``, or ``-`` when nothing was measured."""
    return "-" if estimate.value is None else f"{100 * estimate.value:.1f} %"


def interval(estimate: Estimate) -> str:
    """An accuracy's interval: ``90.1 to 95.4``, in percent."""
    if estimate.low is None or estimate.high is None:
        return "-"
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def points(estimate: Estimate) -> str:
    """A difference in percentage points with its interval: ``-0.4 [-1.6, +0.8]``."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "-"
    return f"{signed(estimate.value)} [{signed(estimate.low)}, {signed(estimate.high)}]"


def plus_minus(estimate: Estimate) -> str:
    """A difference in percentage points and the longer side of its interval: ``-0.4 ±1.2``."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "-"
    return f"{signed(estimate.value)} ±{100 * max(estimate.high - estimate.value, estimate.value - estimate.low):.1f}"


def signed(difference: float) -> str:
    """Percentage points with their sign, none for what rounds to zero."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def counted(count: int, what: str) -> str:
    """A number of things: ``1 picture``, ``2 pictures``."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def version(contender: str) -> str:
    """A contender's name without its engine."""
    return contender.rpartition(":")[2]


def short(contender: str, report: Report) -> str:
    """A contender's name without its engine where only one engine ran."""
    return version(contender) if len(report.engines) == 1 else contender


def headline(report: Report) -> list[str]:
    """What a person wants to know first, in sentences."""
    lines = [*coverage(report), *_not_run(report)]
    for engine in report.engines:
        clean = report.clean.loss("total", engine) if report.clean else None
        noisy = report.overall.loss("total", engine) if report.overall else None
        if clean is not None:
            lines.append(f"Going from fp32 to integers on {engine} changes clean accuracy by {_sentence(clean)}.")
        if noisy is not None:
            lines.append(f"Averaged over the noises it changes accuracy by {_sentence(noisy)}.")
        elsewhere = report.overall or report.clean
        other = elsewhere.loss(ENGINE_STEP, engine) if elsewhere else None
        if other is not None:
            first = other.before.rpartition(":")[0]
            lines.append(
                f"Running on {engine} instead of {first} changes {percent(other.changed)} of the integer predictions "
                f"and accuracy by {_sentence(other)}."
            )
    for name, certificate in report.certificates.items():
        fraction = certificate["integer_fraction"]
        share = "no multiply-accumulates" if fraction is None else f"{100 * fraction:.1f} % of multiply-accumulates"
        lines.append(f"{name}: {share} ran on integer kernels ({certificate['evidence']['kernel_class']}).")
    return lines


def _not_run(report: Report) -> list[str]:
    """What was asked for and is in no table; the findings say why."""
    if not report.not_run:
        return []
    names = ", ".join(each["name"] for each in report.not_run)
    settings = "settings were" if len(report.not_run) > 1 else "setting was"
    return [f"{len(report.not_run)} {settings} asked for and not run, and no mean includes them: {names}."]


def coverage(report: Report) -> list[str]:
    """What was measured, and what a rule that may end the run did."""
    seen = counted(report.pictures, "picture")
    if report.pictures < report.planned_pictures:
        ended = report.stopping is not None and report.stopping["enough_at"] is not None
        seen = f"{report.pictures} of {counted(report.planned_pictures, 'picture')}{'' if ended else ' so far'}"
    failed = f"{report.failed_pictures} failed and count as wrong" if report.failed_pictures else "none failed"
    conditions = counted(len(report.of_kind("condition")), "condition")
    measured = f"{seen}, {conditions}, {counted(len(report.contenders), 'version')}; {failed}."
    return [measured, *_stopping(report)]


def _stopping(report: Report) -> list[str]:
    """What a rule that may end the run did, and what it costs."""
    stopping = report.stopping
    if stopping is None:
        return []
    planned = len(stopping["looks"])
    looks = (
        f"Every interval is widened to hold at all {planned} planned looks together."
        if planned > 1
        else "Only one look is planned, at the end, so no interval is widened."
    )
    if stopping["enough_at"] is None:
        met = "is not met yet" if report.pictures < report.planned_pictures else "was never met"
        return [f"The rule {stopping['rule']} {met}. {looks}"]
    saved = 100 * (1 - stopping["enough_at"] / report.planned_pictures)
    return [
        f"The rule {stopping['rule']} was met after {stopping['enough_at']:,} of {report.planned_pictures:,} pictures, "
        f"which saved {saved:.0f} % of the work. {looks}"
    ]


def corrupted_pictures(recipe: Mapping[str, Any]) -> str:
    """Where the corrupted pictures of a run came from: numbers of different forms do not compare."""
    if recipe["imagenet_c"]:
        return f"read from {recipe['imagenet_c']}"
    return "made in memory" if recipe["corruption_form"] == IN_MEMORY else "made, and stored as JPEG of quality 85"


def time_text(timing: Mapping[str, Any]) -> str:
    """How long measuring took and who did it; parts do not say which of them were measured side by side."""
    staffs = "; ".join(f"{counted(each['pictures'], 'picture')} by {staff_text(each)}" for each in timing["staffs"])
    return (
        f"Measuring took {timing['wall_seconds']:.1f} s (the time of machines and actors that worked side by side is "
        f"added up), {timing['pictures_per_second']:.2f} pictures per second under all conditions: {staffs}."
    )


def with_interval(estimate: Estimate) -> str:
    """A share with its interval: ``4.2 % (3.0 to 5.8)``."""
    return "-" if estimate.value is None else f"{percent(estimate)} ({interval(estimate)})"


def movement_table(
    rows: Sequence[Row], engine: str, cell: Callable[[Estimate], str] = with_interval
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of what accuracy does not show: changed predictions, and how far logits moved.

    Args:
        cell: how an estimate is written.
    """
    steps = dict.fromkeys(loss.step for row in rows for loss in row.losses_of(engine))
    header = ["noise"]
    for step in steps:
        header += [f"{step}: predictions changed", *(["logits moved"] if _has_distance(step) else [])]
    body = []
    for row in rows:
        cells = [row.name]
        for loss in row.losses_of(engine):
            cells += [cell(loss.changed), *([cell(loss.distance)] if _has_distance(loss.step) else [])]
        body.append(cells)
    return header, body


def _has_distance(step: str) -> bool:
    """Logits are compared within one engine only."""
    return step != ENGINE_STEP


def corruption_error_table(report: Report) -> tuple[list[str], list[list[str]], str]:
    """Header, rows and the sentence below of the table of corruption errors; no rows where there are none."""
    errors = report.corruption_errors
    if not errors:
        return [], [], ""
    header = ["error, % of AlexNet's", *(short(name, report) for name in errors)]
    first = next(iter(errors.values()))
    body = [[name, *(_ratio(each.each[name]) for each in errors.values())] for name in first.each]
    missing = missing_corruptions(first.each)
    if missing:
        return header, body, f"mCE is over fifteen corruptions at five severities; it needs {', '.join(missing)} too."
    body.append(["mCE", *(_ratio(each.mce) for each in errors.values())])
    body.append(["relative mCE", *(_ratio(each.relative) for each in errors.values())])
    body.append(["mCE against fp32", *("" if each.change is None else points(each.change) for each in errors.values())])
    note = f"100 is AlexNet's error, and more is worse; 95 % intervals over {report.pictures} pictures."
    return header, body, note


GRID = (
    "A noise that changes several steps at once, every choice with every other. The size of a term is how many points "
    "its choices move accuracy, beyond what fewer of them do: the root of the mean square over the grid, without what "
    "chance makes of it; with the middle 95 % of resampled pictures, which holds the truth a little less often than "
    "that. The worst setting is chosen after the fact, and its interval does not allow for the choice."
)


def spread_table(grid: Grid) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a grid's mean, standard deviation and worst over its settings, one row per version."""
    header = [grid.noise, "mean", "standard deviation, points", "worst", "at"]
    body = [
        [
            name,
            with_interval(spread.mean),
            f"{100 * spread.deviation:.2f}",
            with_interval(spread.lowest),
            spread.worst,
        ]
        for name, spread in grid.spreads.items()
    ]
    return header, body


def term_table(grid: Grid) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what a grid's factors, and their interactions, move."""
    header = [grid.noise, "factors", "size, points", "with chance", "chance alone"]
    body = [
        [engine, " × ".join(term.factors), _size(term.size), f"{100 * term.observed:.2f}", f"{100 * term.chance:.2f}"]
        for engine, terms in grid.terms.items()
        for term in terms
    ]
    return header, body


def _size(estimate: Estimate) -> str:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "-"
    return f"{100 * estimate.value:.2f} ({100 * estimate.low:.2f} to {100 * estimate.high:.2f})"


def _ratio(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None or estimate.low is None or estimate.high is None:
        return "-"
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _sentence(loss: Loss) -> str:
    change = loss.difference
    if change.value is None or change.low is None or change.high is None:
        return "an unknown amount: nothing was measured"
    certain = "" if change.low > 0 or change.high < 0 else "; the interval includes no change"
    return f"{points(change)} percentage points (95 % interval, n {change.n}{certain})"
