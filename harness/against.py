"""Against: two runs on the same pictures, paired picture by picture: what a release changed since the last one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import HarnessError, unknown
from harness.estimate import Estimate, Values, Z, paired_difference
from harness.looks import z_from_looks
from harness.report.build import ALL, CLEAN
from harness.store import STOPPING, Store, first_difference


@dataclass(frozen=True)
class Answers:
    """What one contender answered under one row of the report.

    Args:
        samples: [n], ids in sorted order.
        correct: float64 [n], share of the noises, and within each of the settings, under which it was right.
        failed: bool [n], whether a picture failed under any of them.
    """

    samples: npt.NDArray[Any]
    correct: Values
    failed: npt.NDArray[np.bool_]


class Baseline:
    """The run that another one is compared with.

    Args:
        here: the run that is judged.
        there: the baseline.

    Raises:
        HarnessError: they did not score the same pictures.
    """

    def __init__(self, here: Store, there: Store) -> None:
        self._here, self._there = here, there
        self._identities = [store.read_json("run.json")["identity"] for store in (here, there)]
        ours, theirs = (identity["data"] for identity in self._identities)
        if ours["fingerprint"] != theirs["fingerprint"]:
            raise HarnessError(
                f"{here.folder} and {there.folder} scored different pictures: {ours['pictures']:,} of "
                f"{ours['source']}, and {theirs['pictures']:,} of {theirs['source']} (their ids, labels or contents "
                f"differ). Runs compare on the same pictures only; measure one of them again"
            )
        planned = [len(store.read_json(STOPPING)["looks"]) if store.has(STOPPING) else 1 for store in (here, there)]
        # Either run may have ended at any of its looks, so the interval has to hold at every pair of them.
        self._z = z_from_looks(math.prod(planned)) if max(planned) > 1 else Z

    def change(self, row: str, contender: str) -> Estimate:
        """Accuracy here minus accuracy there, on the pictures that both have measured.

        Args:
            row: name of a row of the report.
            contender: ENGINE:VERSION.

        Raises:
            HarnessError: the other run has no such row or contender, or made it of other pipelines.
        """
        groups = [_group(identity, row) for identity in self._identities]
        for condition in groups[0]:
            self._check(condition["name"], contender)
        ours, theirs = (
            {each["name"]: [_before_the_network(each["pipeline"], identity), _pictures(each)] for each in group}
            for identity, group in zip(self._identities, groups, strict=True)
        )
        difference = first_difference(ours, theirs)
        if difference:
            raise HarnessError(
                f"{row!r} is not the same noise in {self._here.folder} and {self._there.folder}: they differ in "
                f"{difference}; measure one of them again with the other's preprocessing and noises"
            )
        after = _answers(self._here, groups[0], contender)
        before = _answers(self._there, groups[1], contender)
        _, mine, its = np.intersect1d(after.samples, before.samples, assume_unique=True, return_indices=True)
        failed = int((after.failed[mine] | before.failed[its]).sum())
        return paired_difference(before.correct[its], after.correct[mine], failed, self._z)

    def _check(self, condition: str, contender: str) -> None:
        cells = {each["name"]: each["cells"] for each in self._identities[1]["conditions"]}
        if condition not in cells:
            raise unknown(f"condition in {self._there.folder}", condition, cells)
        if contender not in cells[condition]:
            raise unknown(f"version in {self._there.folder}", contender, cells[condition])


def _before_the_network(pipeline: Sequence[Mapping[str, Any]], identity: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A pipeline without the normalisation that the model declares: it is the model's, which may have it inside.

    A preset that somebody named is no declaration, and compared as a whole.
    """
    own = [step for step in identity["preprocessing"] if step["stage"] == "normalise"]
    return [step for step in pipeline if identity["recipe"]["preprocess"] or step not in own]


def _group(identity: Mapping[str, Any], row: str) -> list[Mapping[str, Any]]:
    """The conditions that a row of the report stands for."""
    conditions: Sequence[Mapping[str, Any]] = identity["conditions"]
    if row == ALL:
        return [each for each in conditions if each["noise"] != CLEAN]
    return [each for each in conditions if each["name"] == row] or [each for each in conditions if each["noise"] == row]


def _answers(store: Store, group: Sequence[Mapping[str, Any]], contender: str) -> Answers:
    """Every noise weighs the same, and within it every setting."""
    cells = ", ".join(f"('{each['cells'][contender]}', '{each['noise']}')" for each in group)
    columns = store.columns(
        f"with chosen(cell, noise) as (values {cells}), noises as ("
        "select sample, noise, avg(coalesce(correct, false)::int) as correct, bool_or(error is not null) as failed "
        "from records join chosen using (cell) group by sample, noise) "
        "select sample, avg(correct) as correct, bool_or(failed) as failed from noises group by sample order by sample"
    )
    return Answers(columns["sample"], columns["correct"].astype(np.float64), columns["failed"].astype(np.bool_))


def _pictures(condition: Mapping[str, Any]) -> str:
    """Which pictures a condition reads: what is in its folder, or where that is."""
    return str(condition["content"] or condition["folder"])
