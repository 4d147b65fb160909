"""Every attack on the engine itself keeps the contract, and the checks of it catch those that do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from harness.registry import import_target
from noise.adversarial import ATTACKS, DECISION, GRADIENT, SCORES
from noise.adversarial.base import L1, L2, LINF, Attack, Budget, Labels, Pictures
from noise.adversarial.ledger import Ledger, Search, Terms
from noise.adversarial.query.attack import QueryAttack
from noise.base import NoiseError
from tests.noise.adversarial import query_conformance as conformance
from tests.noise.adversarial.query_doubles import Planted, generators, linear, pictures_of

QUERIES = 150
EPSILON = {LINF: 0.03, L2: 0.5, L1: 4.0}
# How far the planted value is, in shares of epsilon: l2 cannot put all into one value by squares.
REACH = {LINF: 0.95, L2: 0.1, L1: 0.01}
ROWS = [(name, norm) for name, entry in ATTACKS.items() if entry.needs != GRADIENT for norm in entry.norms]
every_row = pytest.mark.parametrize(("name", "norm"), ROWS)


def attack_of(name: str, norm: str, queries: int = QUERIES) -> QueryAttack:
    attack = import_target(f"attack {name!r}", ATTACKS[name].target, None)(Budget(norm, EPSILON[norm]), queries=queries)
    assert isinstance(attack, QueryAttack)
    assert attack.terms.needs == ATTACKS[name].needs
    return attack


@every_row
def test_every_forward_pass_is_counted_and_none_is_wasted(name: str, norm: str) -> None:
    conformance.check_counts(attack_of(name, norm), QUERIES)


@every_row
def test_the_bound_holds_on_every_returned_picture(name: str, norm: str) -> None:
    attack = attack_of(name, norm)
    conformance.check_bound(attack, attack.terms.budget)


@every_row
def test_what_happens_to_a_picture_depends_on_nothing_else(name: str, norm: str) -> None:
    conformance.check_independence(attack_of(name, norm))


@every_row
def test_inputs_are_left_alone(name: str, norm: str) -> None:
    conformance.check_inputs_are_left_alone(attack_of(name, norm))


@every_row
def test_a_planted_picture_is_found(name: str, norm: str) -> None:
    attack = attack_of(name, norm, queries=3000)
    conformance.check_finds_what_is_planted(attack, attack.terms.needs, REACH[norm] * EPSILON[norm])


@pytest.mark.parametrize(("name", "norm"), [row for row in ROWS if ATTACKS[row[0]].needs == DECISION])
def test_an_attack_that_needs_no_scores_uses_none(name: str, norm: str) -> None:
    conformance.check_decides_by_classes_alone(attack_of(name, norm))


@pytest.mark.parametrize(("name", "norm"), [row for row in ROWS if ATTACKS[row[0]].needs == SCORES])
def test_an_attack_that_needs_scores_is_refused_where_there_are_none(name: str, norm: str) -> None:
    model = linear(0)
    pictures, labels = pictures_of(model, 1)
    with pytest.raises(NoiseError, match="needs scores"):
        attack_of(name, norm)(Ledger(model, 1, DECISION), pictures, labels, generators(1))


@every_row
def test_an_attack_goes_on_from_a_start(name: str, norm: str) -> None:
    model = linear(5)
    pictures, labels = pictures_of(model, 4)
    attack = attack_of(name, norm)
    rng = np.random.default_rng(0)
    change = rng.choice((-1, 1), pictures.shape) * EPSILON[norm] / {LINF: 1, L2: 14, L1: 193}[norm]
    starts = (pictures + change).astype(np.float32)
    ledger = Ledger(model, 4)
    found = attack.refine(ledger, pictures, labels, starts, generators(4))
    # The first batch asks about the originals, the second about the starts.
    np.testing.assert_array_equal(model.batches[0], pictures)
    assert attack.terms.budget.distance(model.batches[1], starts).max() < 1e-5
    assert attack.terms.budget.holds(found, pictures).all()
    starts[2] = 1
    with pytest.raises(NoiseError, match="1 of 4 starting pictures are not within"):
        attack.refine(ledger, pictures, labels, starts, generators(4))


@every_row
def test_a_start_that_is_misread_already_costs_two_queries(name: str, norm: str) -> None:
    attack = attack_of(name, norm)
    pictures = np.full((1, 3, 8, 8), 0.5, np.float32)
    starts = pictures.copy()
    reach = min(EPSILON[norm], 0.4)
    starts[0, 0, 4, 4] += np.float32(reach)
    if norm == LINF:  # rays takes the signs of a start alone
        starts += np.float32(1e-6)
        starts = pictures + np.float32(reach) * np.sign(starts - pictures)
    ledger = Ledger(Planted(0.5 + 0.9 * reach), 1)
    attack.refine(ledger, pictures, np.zeros(1, np.int64), starts, generators(1))
    assert (ledger.accounts[0].broken_at, ledger.queries) == (2, 2)


class AsksBehindTheLedger:
    """A broken attack: it calls the model itself."""

    def __init__(self, attack: Attack) -> None:
        self.attack = attack

    def __call__(self, model: Any, pictures: Pictures, labels: Labels, rngs: Sequence[np.random.Generator]) -> Pictures:
        model.model(pictures)
        return self.attack(model, pictures, labels, rngs)


class LeavesTheBudget(AsksBehindTheLedger):
    """A broken attack: what it returns is a little too far away."""

    def __call__(self, model: Any, pictures: Pictures, labels: Labels, rngs: Sequence[np.random.Generator]) -> Pictures:
        found = self.attack(model, pictures, labels, rngs)
        return (pictures + (found - pictures) * np.float32(1.01)).clip(0, 1)


class SharesOneGenerator(AsksBehindTheLedger):
    """A broken attack: all pictures draw from the first one's generator."""

    def __call__(self, model: Any, pictures: Pictures, labels: Labels, rngs: Sequence[np.random.Generator]) -> Pictures:
        return self.attack(model, pictures, labels, [rngs[0]] * len(rngs))


class WritesToItsInput(AsksBehindTheLedger):
    """A broken attack: it returns its result in the pictures that it was given."""

    def __call__(self, model: Any, pictures: Pictures, labels: Labels, rngs: Sequence[np.random.Generator]) -> Pictures:
        pictures[:] = self.attack(model, pictures, labels, rngs)
        return pictures


class CountsCallsAsQueries(Ledger):
    """A broken ledger: a batch counts as one."""

    def _ask(self, asked: Sequence[Any]) -> None:
        before = self.queries
        super()._ask(asked)
        self.queries = before + 1


class AsksTwice(Ledger):
    """A broken ledger: it puts every batch to the model twice and counts both."""

    def _ask(self, asked: Sequence[Any]) -> None:
        self.model(np.stack([question.picture for question in asked]))
        self.queries += len(asked)
        self.calls += 1
        super()._ask(asked)


def peeks(original: Pictures, start: Pictures | None, rng: np.random.Generator) -> Search:
    """A broken search: it says that it needs no scores and goes by their size."""
    del start, rng
    step = 0.0
    while True:
        step += 1e-4
        (margin,) = yield [(original + np.float32(step)).astype(np.float32)]
        step += 1e-3 * float(margin)


def never_finds(original: Pictures, start: Pictures | None, rng: np.random.Generator) -> Search:
    """A broken search: it makes pictures darker, whatever the answer."""
    del start
    while True:
        yield [(original - rng.uniform(0, 0.03, original.shape)).astype(np.float32)]


SOUND = attack_of("square", LINF)


@pytest.mark.parametrize(
    "broken",
    [
        lambda: conformance.check_counts(AsksBehindTheLedger(SOUND), QUERIES),
        lambda: conformance.check_counts(SOUND, QUERIES - 1),
        lambda: conformance.check_counts(SOUND, QUERIES, CountsCallsAsQueries),
        lambda: conformance.check_counts(SOUND, QUERIES, AsksTwice),
        lambda: conformance.check_bound(LeavesTheBudget(SOUND), SOUND.terms.budget),
        lambda: conformance.check_independence(SharesOneGenerator(SOUND)),
        lambda: conformance.check_inputs_are_left_alone(WritesToItsInput(SOUND)),
        lambda: conformance.check_finds_what_is_planted(
            QueryAttack(Terms(Budget(LINF, 0.03), 500, SCORES), never_finds), SCORES, 0.02
        ),
    ],
    ids=[
        "asks behind the ledger",
        "over its budget",
        "counts calls",
        "asks twice",
        "leaves the budget",
        "shares one generator",
        "writes to its input",
        "never finds",
    ],
)
def test_the_checks_catch_what_is_broken(broken: Callable[[], None]) -> None:
    with pytest.raises(AssertionError):
        broken()


def test_a_search_that_says_it_needs_no_scores_is_sent_none() -> None:
    conformance.check_decides_by_classes_alone(QueryAttack(Terms(Budget(LINF, 0.03), 50, DECISION), peeks))
