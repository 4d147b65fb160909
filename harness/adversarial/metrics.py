"""Metrics of attacked pictures: what is still right, of which pictures, and where only one version falls.

A picture survives an attack if it is read right without it and with it: one that is misread anyway survives nothing,
though an attack on another model may turn it round.

Two accuracies are in use, and both are given. *Robust accuracy* is of all pictures. *AR*, as RobustART defines it, is
of those that the same contender reads right without an attack; so it compares different pictures between
contenders, and is given once more on the pictures that all of them read right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.adversarial.sets import ADVERSARIAL, AdversarialSet, set_from_folder
from harness.errors import HarnessError
from harness.estimate import Estimate, Values, average, paired_difference, proportion
from harness.plan import FP32, INTEGER
from harness.report.cells import Cell, any_failed, cells_from_store
from harness.store import Store

CLEAN = "clean"


@dataclass(frozen=True)
class Robustness:
    """What is left of one contender under one attack, or under the worst of several.

    Args:
        robust: pictures that are right without an attack and under it, of all.
        conditional: AR: of the pictures that are right without an attack.
        common: the same on the pictures that every contender reads right without one.
    """

    robust: Estimate
    conditional: Estimate
    common: Estimate


@dataclass(frozen=True)
class Gap:
    """The integer version against the fp32 version of one engine, on the same attacked pictures.

    Args:
        difference: robust accuracy of integer minus that of fp32, on all pictures.
        only_fp32_falls, only_integer_falls: pictures that both read right without an attack, and only one with it.
    """

    difference: Estimate
    only_fp32_falls: int
    only_integer_falls: int


@dataclass(frozen=True)
class OnSource:
    """The attack on its own source: before, as the attack left it in floating point, and as 8-bit pictures.

    Args:
        clean: right answers without an attack.
        attacked, stored: pictures that are right without an attack and with it.
        distance: the mean distance of 8-bit pictures from their originals, in the budget's norm.
        queries: forward passes for each picture; ``None`` for an attack by gradients.
        median_queries: of the pictures that fell to the attack; ``None`` where none did or gradients were used.
        total_queries: of all pictures.
    """

    clean: Estimate
    attacked: Estimate
    stored: Estimate
    distance: Estimate
    queries: Estimate | None
    median_queries: float | None
    total_queries: int


@dataclass(frozen=True)
class SetResult:
    """One adversarial set, on its source and on every contender.

    Args:
        name: of the set.
        made: as `AdversarialSet.made`.
        on_source: how the attack did where it was made.
        contenders: name -> what is left.
        gaps: engine -> its two versions.
    """

    name: str
    made: Mapping[str, Any]
    on_source: OnSource
    contenders: Mapping[str, Robustness]
    gaps: Mapping[str, Gap]


@dataclass(frozen=True)
class BudgetResult:
    """All sets of one budget. ``worst``: a picture counts only if it is right without an attack and in every set."""

    budget: str
    sets: tuple[SetResult, ...]
    worst: Mapping[str, Robustness]
    worst_gaps: Mapping[str, Gap]


@dataclass(frozen=True)
class Robustnesses:
    """Everything that a run with adversarial sets says of them.

    Args:
        identity: of the run.
        contenders: in the order of the report.
        clean: contender -> right answers without an attack.
        budgets: in the order of the sets.
    """

    identity: Mapping[str, Any]
    contenders: tuple[str, ...]
    clean: Mapping[str, Estimate]
    budgets: tuple[BudgetResult, ...]

    def describe(self) -> dict[str, Any]:
        """The results as JSON."""
        return asdict(self)


def robustness_from_store(store: Store) -> Robustnesses:
    """The results of what a run has measured.

    Raises:
        HarnessError: the run measured no clean condition, or no adversarial set.
    """
    identity = store.read_json("run.json")["identity"]
    clean = next((each for each in identity["conditions"] if each["noise"] == CLEAN), None)
    attacked = [each for each in identity["conditions"] if each["noise"] == ADVERSARIAL]
    if clean is None or not attacked:
        raise HarnessError(f"{store.folder} has not measured both clean pictures and an adversarial set")
    cells = cells_from_store(store)
    before = {name: cells[key] for name, key in clean["cells"].items()}
    budgets: dict[str, list[tuple[AdversarialSet, dict[str, Cell]]]] = {}
    for each in attacked:
        made = set_from_folder(Path(each["folder"]))
        under = {name: cells[key] for name, key in each["cells"].items()}
        budgets.setdefault(made.made["budget"], []).append((made, under))
    return Robustnesses(
        identity,
        tuple(before),
        {name: proportion(cell.correct, cell.failed) for name, cell in before.items()},
        tuple(_of_budget(budget, before, sets) for budget, sets in budgets.items()),
    )


def _of_budget(
    budget: str, before: Mapping[str, Cell], sets: Sequence[tuple[AdversarialSet, Mapping[str, Cell]]]
) -> BudgetResult:
    results = tuple(
        SetResult(
            each.name,
            each.made,
            on_source(each),
            _robustness(before, {name: [cell] for name, cell in under.items()}),
            _gaps(before, {name: [cell] for name, cell in under.items()}),
        )
        for each, under in sets
    )
    together = {name: [under[name] for _, under in sets] for name in before}
    return BudgetResult(budget, results, _robustness(before, together), _gaps(before, together))


def survived(cells: Sequence[Cell]) -> Values:
    """float64 [n]: 1 where a picture is right in every one of the cells."""
    return np.asarray(np.min([cell.correct for cell in cells], axis=0))


def _robustness(before: Mapping[str, Cell], under: Mapping[str, Sequence[Cell]]) -> dict[str, Robustness]:
    by_all = np.min([cell.correct for cell in before.values()], axis=0) > 0
    found = {}
    for name, cells in under.items():
        every = [before[name], *cells]
        alive, failed = survived(every), any_failed(every)
        right = before[name].correct > 0
        # A picture that failed without an attack is in neither of the conditional sets.
        broken = np.any([cell.prediction < 0 for cell in cells], axis=0)
        found[name] = Robustness(
            proportion(alive, failed),
            proportion(alive[right], int(broken[right].sum())),
            proportion(alive[by_all], int(broken[by_all].sum())),
        )
    return found


def _gaps(before: Mapping[str, Cell], under: Mapping[str, Sequence[Cell]]) -> dict[str, Gap]:
    gaps = {}
    for name in under:
        engine, _, version = name.rpartition(":")
        other = f"{engine}:{FP32}"
        if version != INTEGER or other not in under:
            continue
        of_fp32, of_integer = [before[other], *under[other]], [before[name], *under[name]]
        fp32, integer = survived(of_fp32), survived(of_integer)
        both = (before[other].correct > 0) & (before[name].correct > 0)
        gaps[engine] = Gap(
            paired_difference(fp32, integer, any_failed([*of_fp32, *of_integer])),
            int((both & (fp32 < integer)).sum()),
            int((both & (integer < fp32)).sum()),
        )
    return gaps


def on_source(made: AdversarialSet) -> OnSource:
    """What the manifest of a set says of the attack on its own source. A picture that failed is wrong."""
    entries = list(made.entries.values())
    failed = sum("error" in entry for entry in entries)

    def right(column: str) -> Estimate:
        both = [all(entry.get(each, -1) == entry["label"] for each in ("clean", column)) for entry in entries]
        return proportion(np.array(both, float), failed)

    attacked = [entry for entry in entries if "error" not in entry]
    queries = [entry["queries"] for entry in attacked if "queries" in entry]
    # The first query is the picture itself; one that is misread there did not fall to the attack.
    fallen = [entry["broken_at"] for entry in attacked if (entry.get("broken_at") or 0) > 1]
    return OnSource(
        right("clean"),
        right("attacked"),
        right("stored"),
        average(np.array([entry["stored_distance"] for entry in attacked], float), failed, made.made["norm"]),
        average(np.array(queries, float), failed, "queries") if queries else None,
        float(np.median(fallen)) if fallen else None,
        int(sum(queries)),
    )
