"""Rules: what an engine must keep to be shipped, as a person writes it down. TOML in, frozen rules out.

::

    [[rule]]
    name = "clean accuracy holds"   # optional
    quantity = "drop"
    noise = "clean"
    at_most = 1.0                   # in the unit that the report shows: points, or percent
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, unknown
from harness.plan import INTEGER, VERSIONS
from harness.quantities import (
    EVERY,
    POINTS,
    QUANTITIES,
    Grid,
    Place,
    Quantity,
    engines_with_step,
    engines_with_version,
)
from harness.report.build import ALL, CLEAN, ENGINE_STEP, STEPS
from harness.toml_file import object_from_table, table_from_toml

TOTAL = "total"
STEP_NAMES = (*(name for name, _, _ in STEPS), ENGINE_STEP)


@dataclass(frozen=True)
class Rule:
    """A bound on one quantity.

    Args:
        quantity: row of `harness.quantities.QUANTITIES`.
        name: for people; "" makes one of the rest.
        noise: a condition ("fog:3"), a noise ("fog": the mean over its settings), "all noises" (the mean over them),
            or "*" (every condition by itself).
        engine: one, or "*" for every engine that has the quantity.
        version: of the model; "" for "integer".
        step: of a loss: "quantisation", "kernel", "total" or "engine"; "" for "total".
        at_most: the largest value that is good, in the quantity's unit.
        at_least: the smallest. A rule has one of the two.
    """

    quantity: str
    name: str = ""
    noise: str = ""
    engine: str = ""
    version: str = ""
    step: str = ""
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        if self.quantity not in QUANTITIES:
            raise unknown("quantity", self.quantity, QUANTITIES)
        self._check_keys()
        self._check_bound()
        if not self.title.isprintable():
            raise HarnessError(f"rule {self.title!r}: its name must be one line of printable characters")

    @property
    def title(self) -> str:
        """What it is called."""
        noise = "every condition" if self.noise == EVERY else self.noise
        parts = (self.subject, f"on {noise}" if noise else "", self.version, self.engine.replace(EVERY, ""))
        return self.name or " ".join(part for part in parts if part)

    @property
    def subject(self) -> str:
        """Its quantity, and the step that this is about where that is not the whole way."""
        return f"{self.step} {self.quantity}" if self.step not in ("", TOTAL) else self.quantity

    @property
    def kind(self) -> Quantity:
        """The row of its quantity."""
        return QUANTITIES[self.quantity]

    @property
    def bound(self) -> float:
        """The bound, in the quantity's unit."""
        bound = self.at_least if self.at_most is None else self.at_most
        if bound is None:
            raise HarnessError(f"rule {self.title!r} needs a bound: at_most = NUMBER or at_least = NUMBER")
        return bound

    @property
    def bound_text(self) -> str:
        """Such as ``at most 2 points``."""
        unit = "point" if self.kind.unit == POINTS and self.bound == 1 else self.kind.unit
        return f"at {'least' if self.at_most is None else 'most'} {self.bound:g} {unit}"

    def describe(self) -> dict[str, Any]:
        """As JSON: what it says, without what it leaves out."""
        return {key: value for key, value in asdict(self).items() if value not in ("", None)}

    def _check_keys(self) -> None:
        for key in ("noise", "engine", "version", "step"):
            if getattr(self, key) and key not in self.kind.keys:
                takes = ", ".join(self.kind.keys) or "none of noise, engine, version and step"
                raise HarnessError(f"rule {self.title!r}: {self.quantity} has no {key}; leave it out (it has {takes})")
        if "noise" in self.kind.keys and not self.noise:
            raise HarnessError(
                f'rule {self.title!r} needs noise = "...": a condition such as "fog:3", a noise, {CLEAN!r}, {ALL!r}, '
                f"or {EVERY!r} for every condition"
            )
        if self.version and self.version not in VERSIONS:
            raise unknown(f"version (rule {self.title!r})", self.version, VERSIONS)
        if self.step and self.step not in STEP_NAMES:
            raise unknown(f"step (rule {self.title!r})", self.step, STEP_NAMES)

    def _check_bound(self) -> None:
        if self.at_most is not None and self.at_least is not None:
            raise HarnessError(f"rule {self.title!r} has two bounds, at_most and at_least; write two rules")
        if not math.isfinite(self.bound):
            raise HarnessError(f"rule {self.title!r}: its bound must be a finite number; got {self.bound}")


Rules = tuple[Rule, ...]

DEFAULT_RULES: Rules = (
    Rule("drop", name="clean accuracy holds", noise=CLEAN, at_most=1.0),
    Rule("drop", name="accuracy under noise holds", noise=ALL, at_most=2.0),
    Rule("failed", name="pictures can be judged", at_most=1.0),
    Rule("integer_share", name="integer kernels run", at_least=50.0),
)
# What is asked beside these where there is a run to compare with.
DEFAULT_AGAINST: Rules = (
    Rule("change", name="clean accuracy is that of the other run", noise=CLEAN, at_least=-1.0),
    Rule("change", name="accuracy under noise is that of the other run", noise=ALL, at_least=-2.0),
)


def read_rules(path: Path) -> Rules:
    """Read a file of rules.

    Raises:
        HarnessError: not TOML, no rule, an unknown key or name, a bound that is missing or no number.
    """
    table = table_from_toml(path, "a file of rules")
    for key in table:
        if key != "rule":
            raise unknown(f"key of a file of rules ({path})", key, ["rule"])
    tables = table.get("rule")
    if not isinstance(tables, list) or not tables or not all(isinstance(each, dict) for each in tables):
        raise HarnessError(f"{path} has no rules; each begins with a line [[rule]]")
    return rules_from_tables(tables, str(path))


def rules_from_tables(tables: Sequence[dict[str, Any]], where: str) -> Rules:
    """Rules from parsed TOML or JSON, every key and type checked.

    Raises:
        HarnessError: as `read_rules`, or two rules have one name.
    """
    rules = tuple(
        object_from_table(Rule, table, "rule", f"{where}, rule {number}") for number, table in enumerate(tables, 1)
    )
    titles = [rule.title for rule in rules]
    double = next((title for title in titles if titles.count(title) > 1), None)
    if double is not None:
        raise HarnessError(f"{where}: two rules are called {double!r}; give one of them another name")
    return rules


def places(rule: Rule, grid: Grid) -> list[Place]:
    """Where in a run a rule holds or not.

    Raises:
        HarnessError: nowhere; the message says what the run lacks.
    """
    lack = rule.kind.lack(grid)
    if lack:
        raise HarnessError(f"rule {rule.title!r}: {rule.quantity} needs {lack}")
    try:
        rows = grid.rows(rule.noise) if "noise" in rule.kind.keys else [""]
        engines = _engines(rule, grid) if "engine" in rule.kind.keys else [""]
    except HarnessError as error:
        raise HarnessError(f"rule {rule.title!r}: {error}") from error
    version = rule.version or INTEGER if "version" in rule.kind.keys else ""
    step = rule.step or TOTAL if "step" in rule.kind.keys else ""
    return [Place(row, engine, version, step) for row in rows for engine in engines]


def check_rules(rules: Rules, grid: Grid) -> None:
    """See that every rule is about something that the run measures.

    Raises:
        HarnessError: one is not.
    """
    for rule in rules:
        places(rule, grid)


def _engines(rule: Rule, grid: Grid) -> list[str]:
    if "step" in rule.kind.keys:
        what = f"the step {rule.step or TOTAL!r}"
        possible = engines_with_step(grid, rule.step or TOTAL)
    else:
        what = f"the version {rule.version or INTEGER!r}"
        possible = engines_with_version(grid, rule.version or INTEGER)
    if rule.engine in ("", EVERY):
        chosen = possible
    elif rule.engine in grid.engines:
        chosen = [engine for engine in possible if engine == rule.engine]
    else:
        raise unknown("engine in this run", rule.engine, grid.engines)
    if not chosen:
        ran = ", ".join(f"{engine}:{version}" for engine, version in grid.contenders)
        where = rule.engine if rule.engine not in ("", EVERY) else "any engine"
        raise HarnessError(
            f"{rule.quantity} needs {what} on {where}, and this run has {ran}; measure what it needs, or leave the "
            f"rule out"
        )
    return chosen
