"""Attacks on real networks and their INT8 engines: by gradients on twins, transferred, and by queries on the engine.

Needs real models and pictures in ``QHARNESS_DATA``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure import Figure
from harness.adversarial.metrics import SetResult
from harness.adversarial.session import Outcome, Request, attack
from harness.progress import Progress
from harness.recipe import Recipe
from harness.report.text import interval, percent
from harness.speed import Speed
from noise.adversarial.base import budget_from_text

MODELS = {"resnet18": "imagenet", "mobilenetv2_tf": "tensorflow"}
PICTURES = 100
BUDGETS = ("2/255", "4/255")
# With parameters spelt out, so that the table says what was asked. Attacks by gradients stop where a picture is
# misread, and Square after few queries, for the sake of the time.
ATTACKS = ("pgd:steps=20,early=true", "apgd-ce:steps=100,early=true", "square:queries=100")
STANDARD = "autoattack"

Row = dict[str, str | int | float]


def measure(folder: Path) -> Figure:
    """Every attack on every source and target, and AutoAttack on the float networks alone."""
    rows: list[Row] = []
    minutes = []
    standing: list[str] = []
    for model, preset in MODELS.items():
        started = time.perf_counter()
        request = Request(ATTACKS, tuple(map(budget_from_text, BUDGETS)), doubted=0)
        outcome = attack(request, _recipe(model, preset, ("ort-cpu",)), folder / model, Speed(batch=8), Progress())
        minutes.append((time.perf_counter() - started) / 60)
        rows += _rows(model, outcome)
        alone = Request((STANDARD,), (budget_from_text("4/255"),), sources=("twin",), doubted=0)
        recipe = _recipe(model, preset, ("ort-cpu:fp32",))
        reference = attack(alone, recipe, folder / f"{model}-standard", Speed(batch=8), Progress())
        rows += _rows(model, reference)
        left = reference.found.budgets[0].sets[0].on_source.attacked
        standing.append(f"{percent(left)} [{interval(left)}] of {model}")
    return Figure(
        f"Robust accuracy in percent on {PICTURES} photographs: rows are what was attacked, columns what is asked",
        rows,
        f"AutoAttack at linf:4/255 leaves {' and '.join(standing)} standing in float. All but AutoAttack took "
        f"{' + '.join(f'{each:.0f}' for each in minutes)} minutes.",
    )


def _recipe(model: str, preset: str, engines: tuple[str, ...]) -> Recipe:
    data = Path(os.environ["QHARNESS_DATA"])
    return Recipe(
        model=str(data / "models" / f"{model}.onnx"),
        data=str(data / "imagenet" / "photos"),
        calibrate=str(data / "imagenet" / "val227"),
        preprocess=preset,
        engines=engines,
        limit=PICTURES,
    )


def _rows(model: str, outcome: Outcome) -> Iterator[Row]:
    for budget in outcome.found.budgets:
        for each in budget.sets:
            yield {
                "model": model,
                "budget": budget.budget,
                "attack": each.made["attack"],
                "source": each.made["source"]["name"],
                "n": each.on_source.clean.n,
                "at source, float": percent(each.on_source.attacked),
                "at source, 8-bit": percent(each.on_source.stored),
                **_columns(each),
                "queries": each.on_source.total_queries or "-",
            }
        if len(budget.sets) > 1:
            worst = {name: percent(budget.worst[name].robust) for name in budget.worst}
            blank = dict.fromkeys(("at source, float", "at source, 8-bit"), "")
            first = {"model": model, "budget": budget.budget, "attack": "worst of all", "source": ""}
            yield {**first, "n": budget.sets[0].on_source.clean.n, **blank, **_named(worst), "queries": ""}


def _columns(each: SetResult) -> dict[str, str]:
    return _named({name: f"{percent(left.robust)} [{interval(left.robust)}]" for name, left in each.contenders.items()})


def _named(values: dict[str, str]) -> dict[str, str]:
    """The same columns for every row, whatever ran."""
    versions = ("fp32", "simulated", "integer")
    return {version: values.get(f"ort-cpu:{version}", "-") for version in versions}
