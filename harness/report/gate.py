"""Gate: a verdict for a terminal, for a pull request, and for a build server."""

from __future__ import annotations

from xml.etree import ElementTree

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.report.build import Report
from harness.report.markdown import markdown_table
from harness.report.text import coverage
from harness.verdict import FAILED, PASSED, UNDECIDED, Check, Judgement, Verdict

STYLES = {PASSED: "green", FAILED: "bold red", UNDECIDED: "yellow"}
# What build servers do with each. Most show a skipped test in green, so what could not be judged is an error.
JUNIT_TAGS = {FAILED: "failure", UNDECIDED: "error"}
HEADER = ("rule", "bound", "estimate [95 %]", "outcome")
SHOWN = 5  # places of one rule


def terminal_verdict(verdict: Verdict, report: Report) -> Group:
    """The verdict as a person reads it in a terminal: a line per rule, reasons, and the sum of it."""
    table = Table(*HEADER, box=SIMPLE_HEAD)
    for judgement in verdict.judgements:
        *cells, outcome = _line(judgement)
        table.add_row(*map(Text, cells), Text(outcome, style=STYLES[outcome]))
    sentences = [Text(f"- {line}") for line in (*coverage(report), *_reasons(verdict))]
    return Group(table, *sentences, Text(f"\n{conclusion(verdict)}", style=STYLES[verdict.outcome]))


def markdown_verdict(verdict: Verdict, report: Report) -> str:
    """The verdict as GitHub-flavoured Markdown."""
    table = markdown_table(HEADER, [_line(judgement) for judgement in verdict.judgements])
    sentences = "\n".join(f"- {line}" for line in (*coverage(report), *_reasons(verdict)))
    return f"# {conclusion(verdict)}\n\n{report.identity['model']['file']}\n\n{table}\n\n{sentences}"


def junit_verdict(verdict: Verdict, report: Report) -> str:
    """The verdict as JUnit's XML: one test case per rule."""
    suite = ElementTree.Element(
        "testsuite",
        name="qharness gate",
        tests=str(len(verdict.judgements)),
        failures=str(verdict.count(FAILED)),
        errors=str(verdict.count(UNDECIDED)),
        skipped="0",
    )
    facts = {"model": report.identity["model"]["file"], "sha256": report.identity["model"]["sha256"]}
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in {**facts, "pictures": str(report.pictures)}.items():
        ElementTree.SubElement(properties, "property", name=name, value=value)
    for judgement in verdict.judgements:
        case = ElementTree.SubElement(suite, "testcase", classname="qharness.gate", name=judgement.rule.title)
        tag = JUNIT_TAGS.get(judgement.outcome)
        reasons = [_reason(judgement, check) for check in judgement.checks]
        if tag is not None:
            reason = ElementTree.SubElement(case, tag, message=reasons[0], type=judgement.outcome)
            reason.text = "\n".join(reasons)
        else:
            ElementTree.SubElement(case, "system-out").text = "\n".join(reasons)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def conclusion(verdict: Verdict) -> str:
    """The verdict in one sentence."""
    total = len(verdict.judgements)
    of = f"of {total} rule{'' if total == 1 else 's'}"
    failed, undecided = verdict.count(FAILED), verdict.count(UNDECIDED)
    if failed:
        more = f", and {undecided} {_is(undecided)} undecided" if undecided else ""
        return f"Verdict: fail. {failed} {of} failed{more}."
    if undecided:
        return f"Verdict: could not judge. {undecided} {of} {_is(undecided)} undecided."
    return f"Verdict: pass. {total} {of} passed."


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _line(judgement: Judgement) -> list[str]:
    """One line of the table: a rule at the place that decides."""
    return [judgement.rule.title, judgement.rule.bound_text, _measured(judgement.checks[0]), judgement.outcome]


def _measured(check: Check) -> str:
    estimate = check.estimate
    if estimate.value is None:
        return "-"
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return _number(estimate.value)
    return f"{_number(estimate.value)} [{_number(estimate.low)}, {_number(estimate.high)}]"


def _reasons(verdict: Verdict) -> list[str]:
    """Why a rule did not pass, at its worst places; and where a rule with several places was closest to its bound."""
    lines = []
    for judgement in verdict.judgements:
        worst = [check for check in judgement.checks if check.outcome == judgement.outcome]
        if judgement.outcome == PASSED and len(judgement.checks) == 1:
            continue
        shown = worst[:1] if judgement.outcome == PASSED else worst[:SHOWN]
        lines += [f'"{judgement.rule.title}" {_reason(judgement, check)}' for check in shown]
        if judgement.outcome == PASSED:
            lines[-1] += " Its other places are no closer to the bound."
        elif len(worst) > SHOWN:
            lines.append(f'"{judgement.rule.title}" {judgement.outcome} at {len(worst)} places (--json lists all).')
    return lines


def _reason(judgement: Judgement, check: Check) -> str:
    """What was measured at one place, and what follows."""
    rule, estimate = judgement.rule, check.estimate
    head = f"{check.outcome}: {rule.subject}"
    place = f" ({check.place})" if str(check.place) else ""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return f"{head} has no estimate{place}, because nothing was measured."
    text = f"{head} {_number(estimate.value)} {rule.kind.unit}{place}"
    if estimate.low < estimate.high:
        text += f", 95 % interval {_number(estimate.low)} to {_number(estimate.high)} over {estimate.n:,} pictures"
    text += f"; wanted {rule.bound_text}"
    if check.outcome != UNDECIDED:
        return f"{text}."
    if check.pictures_needed is None:
        return f"{text}. The estimate is the bound itself, so no number of pictures is likely to decide it."
    return f"{text}. About {check.pictures_needed:,} pictures would likely decide it, if the estimate stays."


def _number(value: float) -> str:
    """Two digits behind the point; nothing that rounds to zero has a sign."""
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text
