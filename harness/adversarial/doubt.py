"""Doubt: the experiments behind a verdict on masking, made on a few of the attacked pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from exporters.twin.gate import gate_from_logits
from harness.adversarial.make import TOGETHER, pictures_of
from harness.adversarial.masking import (
    Check,
    check_gradients,
    check_monotone,
    check_output,
    check_queries,
    check_random_noise,
    check_randomness,
    check_unbounded,
    judge_masking,
)
from harness.adversarial.metrics import survived
from harness.adversarial.models import TWIN, Model
from harness.adversarial.sets import ADVERSARIAL, AdversarialSet
from harness.plan import INTEGER, Plan
from harness.progress import Progress
from harness.registry import attack_from_text
from harness.report.cells import cells_from_store
from harness.store import Store
from noise.adversarial.base import LINF, Budget, Labels, Pictures, levels_from_attacked
from noise.seed import generator

REPEATS = 5
BASE = Budget(LINF, 2 / 255)  # where no set has a budget for experiments
LARGE = Budget(LINF, 64 / 255)
STEPS = (1, 5, 20)
TIMES = (2, 4)  # the least budget


@dataclass(frozen=True)
class Doubts:
    """What doubts are about.

    Args:
        measured: the run of the sets.
        made: its plan.
        pictures: how many to experiment on; 0 for none.
    """

    measured: Store
    made: Plan
    pictures: int


@dataclass(frozen=True)
class Subject:
    """Pictures to experiment on: float32 [N, 3, H, W], the same in levels, their classes and names."""

    pictures: Pictures
    levels: npt.NDArray[np.uint8]
    labels: Labels
    ids: tuple[str, ...]


def subject_of(made: Plan, count: int) -> Subject:
    """The first scored pictures that can be read."""
    targets = pictures_of(made, count)
    levels = np.stack([target.levels for target in targets])
    labels = np.array([target.sample.label for target in targets], np.int64)
    pictures = (levels / np.float32(255)).astype(np.float32)
    return Subject(pictures, levels, labels, tuple(target.sample.id for target in targets))


def parities(sources: Mapping[str, Model], pairs: Mapping[str, str], made: Plan) -> dict[str, Any]:
    """How well each twin speaks for its engine, on all attacked pictures that can be read.

    Args:
        pairs: twin -> the contender whose file it is.
    """
    subject = subject_of(made, len(made.scored.samples))
    found = {}
    for twin, contender in pairs.items():
        engine, mine = (sources[name].logits(subject.pictures) for name in (contender, twin))
        gate = gate_from_logits(engine, mine, quantised=contender.endswith(f":{INTEGER}"))
        found[twin] = {"engine": contender, **gate.describe()}
    return found


def doubts(
    sources: Mapping[str, Model],
    pairs: Mapping[str, str],
    sets: Sequence[AdversarialSet],
    about: Doubts,
    progress: Progress,
) -> dict[str, Any]:
    """A verdict for each contender that has a twin."""
    if not about.pictures:
        return {}
    subject = subject_of(about.made, about.pictures)
    base = base_of(sets)
    return {
        contender: judge_masking(
            [
                *_of_engine(sources[contender], about.made.artifact.output_kind, subject),
                *_of_twin(sources[twin], sources[contender], subject, base),
                *_queries_against_gradients(contender, about.measured, sets),
            ]
        ).describe()
        for twin, contender in progress.over("doubt", list(pairs.items()))
    }


def base_of(sets: Sequence[AdversarialSet]) -> Budget:
    """The least budget in l-inf that an 8-bit picture can carry: below it, attack and noise alike change nothing."""
    budgets = (Budget(each.made["norm"], each.made["epsilon"]) for each in sets)
    carried = (each for each in budgets if each.norm == LINF and not each.below_a_level)
    return min(carried, key=lambda each: each.epsilon, default=BASE)


def _of_engine(engine: Model, output_kind: str, subject: Subject) -> list[Check]:
    answers = [engine.logits(subject.pictures) for _ in range(REPEATS)]
    return [check_randomness(answers), check_output(output_kind, answers[0])]


def _of_twin(twin: Any, engine: Model, subject: Subject, base: Budget) -> list[Check]:
    """What following the gradients of the twin comes to; random noise and the attack are compared on the engine."""
    sizes = twin.gradient_sizes(subject.pictures, subject.labels)
    n = len(subject.labels)

    def standing(budget: Budget, steps: int) -> float:
        return float(_right(twin, _pgd(twin, subject, budget, f"steps={steps},early=true"), subject).mean())

    whole = _pgd(twin, subject, base, f"steps={STEPS[-1]}")
    at_base = float(_right(twin, whole, subject).mean())
    by_epsilon = {base.name: at_base}
    for each in (Budget(LINF, min(1.0, base.epsilon * times)) for times in TIMES):
        by_epsilon[each.name] = standing(each, STEPS[-1])
    by_steps = {f"{steps} steps": standing(base, steps) for steps in STEPS[:-1]} | {f"{STEPS[-1]} steps": at_base}
    attacked = levels_from_attacked(whole, subject.levels, base)
    noisy = levels_from_attacked(_noise(subject, base), subject.levels, base)
    clean = _right(engine, subject.pictures, subject)
    return [
        check_gradients(sizes),
        check_monotone("epsilon", by_epsilon, n),
        check_monotone("steps", by_steps, n),
        check_unbounded(LARGE.name, standing(LARGE, STEPS[-1]), n),
        check_random_noise(
            _right(engine, _given(noisy), subject), _right(engine, _given(attacked), subject), clean, base.name
        ),
    ]


def _right(model: Model, pictures: Pictures, subject: Subject) -> npt.NDArray[np.bool_]:
    return np.asarray(model.logits(pictures).argmax(axis=1) == subject.labels)


def _given(levels: npt.NDArray[np.uint8]) -> Pictures:
    return (levels / np.float32(255)).astype(np.float32)


def _pgd(twin: Model, subject: Subject, budget: Budget, params: str) -> Pictures:
    attack = attack_from_text(f"pgd:{params}", budget)
    rngs = [generator(0, "doubt", each) for each in subject.ids]
    parts = [slice(at, at + TOGETHER) for at in range(0, len(rngs), TOGETHER)]
    attacked = [attack(twin.gradients(), subject.pictures[at], subject.labels[at], rngs[at]) for at in parts]
    return np.concatenate(attacked)


def _noise(subject: Subject, budget: Budget) -> Pictures:
    """Every value moved by epsilon, up or down by chance: the largest random noise of the budget."""
    signs = [generator(0, "noise", each).integers(0, 2, subject.pictures.shape[1:]) * 2 - 1 for each in subject.ids]
    moved = subject.pictures + np.float32(budget.epsilon) * np.stack(signs)
    return np.clip(moved, 0, 1).astype(np.float32)


def _queries_against_gradients(contender: str, measured: Store, sets: Sequence[AdversarialSet]) -> list[Check]:
    """For every budget of which there are sets of both kinds: from twins, and made by asking this engine."""
    cells = cells_from_store(measured)
    conditions = {each["name"]: each["cells"] for each in measured.read_json("run.json")["identity"]["conditions"]}
    checks = []
    for budget in dict.fromkeys(each.made["budget"] for each in sets):
        here = [each for each in sets if each.made["budget"] == budget]
        groups = (
            [each for each in here if each.made["source"]["kind"] == TWIN],
            [each for each in here if each.made["source"]["name"] == contender and not each.made["start"]],
        )
        if all(groups):
            by_gradient, by_queries = (
                survived([cells[conditions[f"{ADVERSARIAL}:{each.name}"][contender]] for each in group]) > 0
                for group in groups
            )
            checks.append(check_queries(budget, by_gradient, by_queries))
    return checks
