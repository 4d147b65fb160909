"""What of a file does not suit a target, rule by rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Group
from rich.text import Text

from engines.lint import ERROR, Finding

# A foreign file may violate a rule at every node, and one mend serves them all.
SHOWN_NODES = 5
STYLES = {"error": "red", "warning": "yellow"}


def lint_report(path: Path, target: str, findings: Sequence[Finding]) -> Group:
    """One line on the file, then each rule with its mend and the first nodes that violate it."""
    if not findings:
        return Group(Text(f"{path.name}: nothing in it is known not to suit {target}"))
    errors = sum(finding.severity == ERROR for finding in findings)
    outlook = "would refuse it" if errors else "would take it, and run part of it in float"
    count = f"{len(findings)} finding{'s' if len(findings) > 1 else ''}, {errors} of them errors"
    return Group(Text(f"{path.name}: {count}; {target} {outlook}"), *_rules(findings))


def _rules(findings: Sequence[Finding]) -> Iterator[Text]:
    for rule, violations in groupby(findings, key=lambda finding: finding.rule):
        rows = list(violations)
        yield Text(f"\n{rows[0].severity}: {rule}", style=STYLES[rows[0].severity])
        yield from (Text(f"  {each.node}: {each.message}") for each in rows[:SHOWN_NODES])
        if len(rows) > SHOWN_NODES:
            yield Text(f"  and {len(rows) - SHOWN_NODES} more nodes")
        yield Text(f"  mend: {rows[0].mend}")
