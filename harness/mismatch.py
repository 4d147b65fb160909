"""Mismatch: what each difference between the declared preprocessing and a device's would cost this model.

A run like any other, of a recipe that swaps every step once. What is new is the comparison: not between versions of the
model under one condition, but between the declared pipeline and a changed one, for each version, on the same pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import HarnessError, unknown
from harness.estimate import Estimate, mcnemar, paired_difference, proportion, scaled
from harness.plan import FP32, INTEGER, SIMULATED, versions_of
from harness.recipe import Recipe
from harness.registry import NOISE_TABLE, artifact_from_model, noise_settings
from harness.report.cells import Cell, any_failed, cells_from_store
from harness.store import Store
from noise.base import ADDED, Change, Step, step_from_json
from noise.decode import turns

CLEAN = "clean"
MISMATCH_VERSION = 1


@dataclass(frozen=True)
class Effect:
    """What a swap does to one contender, against the declared pipeline on the same pictures.

    Args:
        difference: accuracy under the swap minus accuracy without.
        better: pictures that are right only under the swap.
        worse: pictures that are right only without.
        flipped: share of pictures whose prediction is another one.
        rejected: pictures that fail only under the swap, and are wrong for that.
        p_value: of McNemar's exact test, mid-p.
    """

    difference: Estimate
    better: int
    worse: int
    flipped: Estimate
    rejected: int
    p_value: float

    @property
    def unusable(self) -> bool:
        """Whether the swap fails on most pictures: what it costs is not accuracy, and has no place in the ranking."""
        return 2 * self.rejected > self.difference.n


@dataclass(frozen=True)
class Swap:
    """One difference of the pipeline.

    Args:
        name: of the condition.
        change: the steps that are new, as text, and what they change on the way.
        effects: contender -> what it does.
        added: engine -> the effect on its integer version minus that on its fp32 version: above zero, integers suffer
            less.
    """

    name: str
    change: str
    effects: Mapping[str, Effect]
    added: Mapping[str, Estimate]


@dataclass(frozen=True)
class Mismatch:
    """The ranking.

    Args:
        identity: of the run.
        shipped: the contender whose losses rank the swaps.
        contenders: in the order of the report.
        pictures: that were measured.
        swaps: the most expensive first; of equal ones, that which flips more predictions. Unusable ones come last.
        unchanged: swaps that changed no answer to any picture, to the last bit: they cost nothing, and did nothing.
        declared: settings that are what the artifact declares, so that there is nothing to swap.
        not_run: as in the identity.
        findings: of the run.
    """

    identity: Mapping[str, Any]
    shipped: str
    contenders: tuple[str, ...]
    pictures: int
    swaps: tuple[Swap, ...]
    unchanged: tuple[str, ...]
    declared: tuple[str, ...]
    not_run: Sequence[Mapping[str, str]]
    findings: Sequence[Mapping[str, str]]

    def describe(self) -> dict[str, Any]:
        """The ranking as JSON."""
        return {"mismatch_version": MISMATCH_VERSION, **asdict(self)}

    @property
    def flip_ranks(self) -> dict[str, int]:
        """Swap -> its rank by the predictions of the shipped contender that it flips, from 1."""
        order = sorted(self.swaps, key=lambda swap: -(swap.effects[self.shipped].flipped.value or 0))
        return {swap.name: rank for rank, swap in enumerate(order, start=1)}


def systematic_noises() -> tuple[str, ...]:
    """The noises that swap one step, those of plug-ins too; the others are corruptions, or swap several at once."""
    return tuple(
        name
        for name in NOISE_TABLE.names()
        if all(isinstance(each, Step | Change) and each.stage != "sensor" for each in noise_settings(name).values())
    )


def mismatch_recipe(recipe: Recipe, noises: Sequence[str] = ()) -> Recipe:
    """The recipe that swaps every step once, for the fp32 and the integer version of each engine.

    Args:
        recipe: whose conditions are replaced. Engines that name a version keep it.
        noises: what to swap instead, as in a recipe.

    Raises:
        HarnessError: one of the noises is no swap of one step, or does not exist.
    """
    swaps = systematic_noises()
    for name in noises:
        noise = name.partition(":")[0]
        if noise not in (CLEAN, *swaps):
            refused = unknown("swap of one step", noise, swaps)
            elsewhere = f". {noise} is measured by qharness run" if noise in NOISE_TABLE.names() else ""
            raise HarnessError(f"{refused}{elsewhere}")
    possible = versions_of(artifact_from_model(Path(recipe.model)))
    versions = [version for version in possible if version != SIMULATED]
    engines = [
        name if ":" in each else f"{each}:{name}"
        for each in recipe.engines
        for name in ((each,) if ":" in each else versions)
    ]
    return replace(recipe, noise=(CLEAN, *(name for name in noises or swaps if name != CLEAN)), engines=tuple(engines))


def mismatch_from_store(store: Store) -> Mismatch:
    """The ranking of what a run has measured so far.

    Raises:
        HarnessError: the folder is no run, or the run has no clean condition to compare with.
    """
    identity = store.read_json("run.json")["identity"]
    conditions = identity["conditions"]
    clean = next((each for each in conditions if each["noise"] == CLEAN), None)
    if clean is None:
        raise HarnessError(f"{store.folder} holds no condition {CLEAN!r} that swaps could be compared with")
    cells = cells_from_store(store)
    contenders = tuple(clean["cells"])
    seen = [name for name in contenders if len(cells[clean["cells"][name]].correct)]
    shipped = next((name for name in seen if _is_integer(name)), seen[0])
    others = [each for each in conditions if each is not clean]
    swapped = [each for each in others if each["cells"] != clean["cells"]]
    changed = _changed(store, swapped, clean)
    swaps = [_swap(each, clean, cells) for each in swapped if each["name"] in changed]
    order = sorted(swaps, key=lambda swap: _cost(swap.effects[shipped]))
    return Mismatch(
        identity=identity,
        shipped=shipped,
        contenders=contenders,
        pictures=len(cells[clean["cells"][shipped]].correct),
        swaps=tuple(order),
        unchanged=tuple(each["name"] for each in swapped if each["name"] not in changed),
        declared=tuple(each["name"] for each in others if each["cells"] == clean["cells"]),
        not_run=identity["not_run"],
        findings=store.read_json("prepared.json")["findings"],
    )


def _changed(store: Store, swapped: Sequence[Mapping[str, Any]], clean: Mapping[str, Any]) -> set[str]:
    """Of some conditions those under which any answer differs in any bit that a record keeps of it."""
    pairs = [
        f"('{each['name']}', '{clean['cells'][contender]}', '{cell}')"
        for each in swapped
        for contender, cell in each["cells"].items()
    ]
    if not pairs:
        return set()
    kept = ("prediction", "margin", "log_probability", "confidence")
    differs = " or ".join(f"a.{name} is distinct from b.{name}" for name in kept)
    return {
        name
        for (name,) in store.query(
            f"with pairs(name, before, after) as (values {', '.join(pairs)}) select distinct name from pairs "
            f"join records a on a.cell = before join records b on b.cell = after and b.sample = a.sample "
            f"where {differs}"
        )
    }


def _cost(effect: Effect) -> tuple[bool, float, float]:
    return effect.unusable, effect.difference.value or 0.0, -(effect.flipped.value or 0.0)


def _swap(condition: Mapping[str, Any], clean: Mapping[str, Any], cells: Mapping[str, Cell]) -> Swap:
    without = {name: cells[key] for name, key in clean["cells"].items()}
    under = {name: cells[key] for name, key in condition["cells"].items()}
    pairs = {
        name.rpartition(":")[0]: (f"{name.rpartition(':')[0]}:{FP32}", name) for name in under if _is_integer(name)
    }
    return Swap(
        name=condition["name"],
        change=_change(condition["pipeline"], clean["pipeline"]),
        effects={name: _effect(without[name], under[name]) for name in under},
        added={
            engine: _added([without[fp32], without[integer]], [under[fp32], under[integer]])
            for engine, (fp32, integer) in pairs.items()
            if fp32 in under
        },
    )


def _is_integer(contender: str) -> bool:
    return contender.endswith(f":{INTEGER}")


def step_text(step: Mapping[str, Any], known: Mapping[str, Any] | None = None) -> str:
    """A step as people write it, ``resize.opencv(filter=area)``, without the parameters that are known."""
    told = (f"{key}={value}" for key, value in step["params"].items() if known is None or known.get(key) != value)
    return f"{step['stage']}.{step['name']}({', '.join(told)})"


def _change(pipeline: Sequence[Mapping[str, Any]], declared: Sequence[Mapping[str, Any]]) -> str:
    """The steps that are new, and whether EXIF turns a picture where another decoder changes that on the way."""
    old = {step["stage"]: step["params"] for step in declared if step["stage"] not in ADDED}
    left, new = list(declared), []
    for step in pipeline:
        if step in left:
            left.remove(step)  # each stands for itself: of two that are alike, one may be new
        else:
            new.append(step)
    texts = [step_text(step, old.get(step["stage"], {})) for step in new]
    before, after = (
        next(turns(step_from_json(step)) for step in steps if step["stage"] == "decode")
        for steps in (declared, pipeline)
    )
    if before != after:
        texts.append(f"EXIF orientation {'honoured' if after else 'ignored'}")
    return ", ".join(texts)


def _effect(without: Cell, under: Cell) -> Effect:
    failed = any_failed([without, under])
    better, worse = int((under.correct > without.correct).sum()), int((under.correct < without.correct).sum())
    return Effect(
        difference=paired_difference(without.correct, under.correct, failed),
        better=better,
        worse=worse,
        rejected=int(((without.prediction >= 0) & (under.prediction < 0)).sum()),
        flipped=proportion((without.prediction != under.prediction).astype(np.float64), failed),
        p_value=mcnemar(better, worse),
    )


def _added(without: Sequence[Cell], under: Sequence[Cell]) -> Estimate:
    """The difference of two differences, fp32 first in both arguments.

    (integer - fp32 + 1) / 2 is one number in [0, 1] per picture, so the paired interval serves it as well.
    """
    before, after = ((integer.correct - fp32.correct + 1) / 2 for fp32, integer in (without, under))
    return scaled(paired_difference(before, after, any_failed([*without, *under])), 2.0, "difference")
