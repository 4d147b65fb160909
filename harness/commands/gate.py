"""``gate``: may it ship? Rules are held against what a run measured."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from harness.against import Baseline
from harness.errors import HarnessError
from harness.quantities import Evidence
from harness.report.build import report_from_store
from harness.report.gate import junit_verdict, markdown_verdict, terminal_verdict
from harness.rules import DEFAULT_AGAINST, DEFAULT_RULES, Rules, read_rules
from harness.store import Store
from harness.until import rules_difference, stored_rules
from harness.verdict import FAILED, PASSED, UNDECIDED, check_finished, judge

if TYPE_CHECKING:
    from harness.commands.options import Commands

EXIT_CODES = {PASSED: 0, FAILED: 1, UNDECIDED: 2}


def add(commands: Commands) -> None:
    """Describe the command."""
    gate = commands.add_parser("gate", help="may it ship? exit code 0: pass, 1: fail, 2: could not judge")
    gate.add_argument("folder", metavar="RUN")
    gate.add_argument("--rules", metavar="FILE", help="rules in TOML; default: those of run --until gate, or built in")
    gate.add_argument("--against", metavar="RUN", help="compare with another run on the same pictures")
    form = gate.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print Markdown")
    form.add_argument("--json", action="store_true", help="print JSON")
    gate.add_argument("--junit", metavar="FILE", help="write JUnit's XML too, one test case per rule")
    gate.set_defaults(command=_gate)


def _gate(options: argparse.Namespace, console: Console) -> int:
    store = Store(Path(options.folder))
    report = report_from_store(store)
    check_finished(report, options.folder)
    baseline = None
    if options.against:
        other = Store(Path(options.against))
        check_finished(report_from_store(other), options.against)
        baseline = Baseline(store, other)
    rules, source = _rules(options, store)
    verdict = judge(rules, Evidence(report, baseline))
    if options.junit:
        Path(options.junit).write_text(junit_verdict(verdict, report), encoding="utf-8")
    if options.json:
        print(json.dumps({"run": options.folder, "rules_from": source, **verdict.describe()}, indent=1))
    elif options.markdown:
        print(markdown_verdict(verdict, report))
    else:
        console.print(terminal_verdict(verdict, report))
        console.print(f"Rules: {source}", markup=False)
    return EXIT_CODES[verdict.outcome]


def _rules(options: argparse.Namespace, store: Store) -> tuple[Rules, str]:
    """The rules to judge by, and where they come from."""
    stored = stored_rules(store)
    if options.rules:
        rules = read_rules(Path(options.rules))
        difference = rules_difference(stored, rules) if stored else ""
        other = f"; the run was to end by others, {difference}" if difference else ""
        found, source = rules, f"{options.rules}{other}"
    elif stored:
        found, source = stored, f"those that --until gate stored in {options.folder}"
    else:
        found, source = DEFAULT_RULES, "the defaults; --rules FILE for your own"
    if not options.against:
        return found, source
    if not options.rules:
        return (*found, *DEFAULT_AGAINST), source
    if not any(rule.quantity == "change" for rule in found):
        raise HarnessError(
            f'no rule of {options.rules} is about the run --against; add one with quantity = "change", or leave '
            f"--against out"
        )
    return found, source
