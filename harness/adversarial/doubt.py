"""Doubt: the experiments behind a verdict on masking, made on a few of the attacked pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exporters.twin.gate import gate_from_logits
from harness.adversarial.make import TOGETHER, parts_of, pictures_of
from harness.adversarial.masking import (
    Check,
    Correct,
    Sides,
    check_gradients,
    check_monotone,
    check_not_made,
    check_output,
    check_queries,
    check_random_noise,
    check_randomness,
    check_sets,
    check_steps,
    check_unbounded,
    judge_masking,
    silenced,
)
from harness.adversarial.metrics import CLEAN, survived
from harness.adversarial.models import TWIN, Model
from harness.adversarial.sets import ADVERSARIAL, AdversarialSet
from harness.estimate import wilson
from harness.plan import INTEGER, Plan
from harness.progress import Progress
from harness.registry import attack_from_text, attack_needs
from harness.report.cells import Cell, cells_from_store
from harness.store import Store
from noise.adversarial import GRADIENT
from noise.adversarial.base import LINF, Budget, Labels, Pictures, levels_from_attacked, pictures_from_levels
from noise.adversarial.query.random_noise import noisy
from noise.seed import generator

REPEATS = 5
BASE = Budget(LINF, 2 / 255)  # where no set has a budget for experiments
LARGE = Budget(LINF, 64 / 255)
WHOLE_STEPS = 20
STEPS = (1, 5, WHOLE_STEPS, 2 * WHOLE_STEPS)
CONTROL = "random-noise"  # a row of attacks that searches for nothing
TIMES = (2, 4)  # the least budget


@dataclass(frozen=True)
class Doubts:
    """What doubts are about.

    Args:
        measured: the run of the sets.
        made: its plan.
        twins: twin -> how well it speaks for its engine, as `parities` found.
        pictures: how many to experiment on; 0 for none.
    """

    measured: Store
    made: Plan
    twins: Mapping[str, Any]
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
    pictures = pictures_from_levels(levels)
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
        found[twin] = {
            "engine": contender,
            **gate.describe(),
            "agreement_interval": wilson(gate.parity.agreement, gate.parity.n),
        }
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
    answers = answers_from_store(about.measured)
    base = base_of(sets)
    at_base = [each for each in sets if each.made["budget"] == base.name]
    places = answers.places(subject.ids)
    verdicts = {}
    for twin, contender in progress.over("doubt", list(pairs.items())):
        engine = sources[contender]
        by_sets = answers.standing(contender, at_base)[places] if at_base else None
        followed = [
            *_of_twin(sources[twin], engine, subject, base, by_sets),
            *_queries_against_gradients(contender, answers, sets),
        ]
        if not about.twins[twin]["speaks"]:
            followed = [silenced(each) for each in followed]
        own = _of_engine(engine, about.made.artifact.output_kind, subject)
        verdicts[contender] = judge_masking([*own, *followed]).describe()
    return verdicts


def base_of(sets: Sequence[AdversarialSet]) -> Budget:
    """The least budget in l-inf that an 8-bit picture can carry: below it, attack and noise alike change nothing."""
    budgets = (Budget(each.made["norm"], each.made["epsilon"]) for each in sets)
    carried = (each for each in budgets if each.norm == LINF and not each.below_a_level)
    return min(carried, key=lambda each: each.epsilon, default=BASE)


def _of_engine(engine: Model, output_kind: str, subject: Subject) -> list[Check]:
    answers = [engine.logits(subject.pictures) for _ in range(REPEATS)]
    return [check_randomness(answers), check_output(output_kind, answers[0])]


def _of_twin(twin: Any, engine: Model, subject: Subject, base: Budget, by_sets: Correct | None) -> list[Check]:
    """What following the gradients of the twin comes to; noise, sets and the attack are compared on the engine.

    Args:
        by_sets: [n], which pictures stand on the engine under every set of the base budget.
    """
    n = len(subject.labels)
    right, clean = (_right(model, subject.pictures, subject) for model in (twin, engine))

    def standing(budget: Budget, steps: int) -> float:
        attacked = _pgd(twin, subject, budget, f"steps={steps},early=true")
        return float((right & _right(twin, attacked, subject)).mean())

    whole = _pgd(twin, subject, base, f"steps={WHOLE_STEPS}")
    at_base = float((right & _right(twin, whole, subject)).mean())
    by_epsilon = {base.name: at_base}
    for each in (Budget(LINF, min(1.0, base.epsilon * times)) for times in TIMES):
        by_epsilon[each.name] = standing(each, WHOLE_STEPS)
    by_steps = {steps: at_base if steps == WHOLE_STEPS else standing(base, steps) for steps in STEPS}
    given = (levels_from_attacked(each, subject.levels, base) for each in (_noise(subject, base), whole))
    by_noise, by_attack = (clean & _right(engine, pictures_from_levels(levels), subject) for levels in given)
    return [
        check_gradients(twin.gradient_sizes(subject.pictures, subject.labels)),
        check_monotone("epsilon", by_epsilon, n),
        check_steps(by_steps, n),
        check_unbounded(LARGE.name, standing(LARGE, WHOLE_STEPS), n),
        check_random_noise(by_noise, by_attack, clean, base.name),
        check_sets(base.name, by_attack, by_sets),
    ]


def _right(model: Model, pictures: Pictures, subject: Subject) -> npt.NDArray[np.bool_]:
    return np.asarray(model.logits(pictures).argmax(axis=1) == subject.labels)


def _pgd(twin: Model, subject: Subject, budget: Budget, params: str) -> Pictures:
    attack = attack_from_text(f"pgd:{params}", budget)
    rngs = [generator(0, "doubt", each) for each in subject.ids]
    parts = [slice(at, at + TOGETHER) for at in range(0, len(rngs), TOGETHER)]
    attacked = [attack(twin.gradients(), subject.pictures[at], subject.labels[at], rngs[at]) for at in parts]
    return np.concatenate(attacked)


def _noise(subject: Subject, budget: Budget) -> Pictures:
    """Random noise as large as the budget allows."""
    drawn = [
        noisy(picture, generator(0, "noise", each), budget)
        for picture, each in zip(subject.pictures, subject.ids, strict=True)
    ]
    return np.stack(drawn)


@dataclass(frozen=True)
class Answers:
    """What the run of the sets has measured.

    Args:
        cells: key -> answers.
        clean: contender -> key, without an attack.
        under: name of a set -> contender -> key.
        ids: of all pictures, in the order of a cell's answers.
    """

    cells: Mapping[str, Cell]
    clean: Mapping[str, str]
    under: Mapping[str, Mapping[str, str]]
    ids: Sequence[str]

    def places(self, ids: Sequence[str]) -> list[int]:
        """Where pictures are among all."""
        place = {each: at for at, each in enumerate(self.ids)}
        return [place[each] for each in ids]

    def standing(self, contender: str, sets: Sequence[AdversarialSet]) -> Correct:
        """[n]: pictures that a contender reads right without an attack and under every one of the sets."""
        keys = [self.clean[contender], *(self.under[each.name][contender] for each in sets)]
        return survived([self.cells[key] for key in keys]) > 0


def answers_from_store(measured: Store) -> Answers:
    """The answers of a finished run with adversarial sets and clean pictures."""
    conditions = measured.read_json("run.json")["identity"]["conditions"]
    clean = next(each["cells"] for each in conditions if each["noise"] == CLEAN)
    attacked = {Path(each["folder"]).name: each["cells"] for each in conditions if each["noise"] == ADVERSARIAL}
    ids = measured.columns("select distinct sample from records order by sample")["sample"]
    return Answers(cells_from_store(measured), clean, attacked, [str(each) for each in ids])


def _queries_against_gradients(contender: str, answers: Answers, sets: Sequence[AdversarialSet]) -> list[Check]:
    """A check for every budget; where one kind of attack is missing, or no 8-bit picture carries it, it is not made."""
    sides, not_made = [], []
    for budget in dict.fromkeys(each.made["budget"] for each in sets):
        here = [each for each in sets if each.made["budget"] == budget]
        gradients = [each for each in here if _follows_gradients(each)]
        asking = [each for each in here if _asks(each, contender)]
        reason = _nothing_to_compare(here[0].made["below_a_level"], gradients, asking)
        if reason:
            not_made.append(check_not_made(f"queries against gradients, {budget}", reason))
            continue
        spent = [entry["queries"] for each in asking for entry in each.entries.values() if "queries" in entry]
        most, median = max(spent, default=0), np.median(spent or [0])
        sides.append(
            Sides(
                budget,
                answers.standing(contender, gradients),
                answers.standing(contender, asking),
                _named(gradients),
                f"{_named(asking)}; {most:,} queries for a picture at most, {median:,.0f} in the median",
                most,
            )
        )
    return [*check_queries(sides), *not_made]


def _follows_gradients(each: AdversarialSet) -> bool:
    """Whether nothing but gradients made it: a cascade that ends in a search on the twin says nothing of them alone."""
    parts = parts_of(each.made["attack"])
    return each.made["source"]["kind"] == TWIN and all(attack_needs(part) == GRADIENT for part in parts)


def _asks(each: AdversarialSet, contender: str) -> bool:
    """Whether a search on this very engine made it, from nothing. Noise without a direction is none."""
    parts = parts_of(each.made["attack"])
    searches = all(attack_needs(part) != GRADIENT and part.partition(":")[0] != CONTROL for part in parts)
    return each.made["source"]["name"] == contender and not each.made["start"] and searches


def _nothing_to_compare(below_a_level: bool, gradients: Sequence[Any], asking: Sequence[Any]) -> str:
    if below_a_level:
        return "no 8-bit picture but the original lies within this budget"
    if not gradients:
        return "no set of this budget was made by following gradients and nothing else"
    return "" if asking else "no set of this budget was made by asking this engine"


def _named(sets: Sequence[AdversarialSet]) -> str:
    return ", ".join(dict.fromkeys(each.made["attack"] for each in sets))
