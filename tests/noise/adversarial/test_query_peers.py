"""Attacks by queries break no fewer pictures than public implementations, with as many queries, on one small network.

Neither package is among what development needs: torchattacks pins an old requests, and foolbox imports a name that
SciPy is about to drop.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="public implementations need torch")

from noise.adversarial import DECISION, SCORES  # noqa: E402 - behind the skip
from noise.adversarial.base import Attack, Budget, Labels, Pictures  # noqa: E402
from noise.adversarial.ledger import Ledger  # noqa: E402
from noise.adversarial.query.rays import rays  # noqa: E402
from noise.adversarial.query.square import square  # noqa: E402
from tests.noise.adversarial.query_doubles import generators  # noqa: E402

PICTURES, SIDE, CLASSES = 200, 15, 6  # l2 in torchattacks fails on sides that five does not divide
SEEDS = range(3)
MARGIN = 0.01  # of robust accuracy, beside what chance does


class Counted(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A convolution, a kink and a linear layer with random weights, and how many pictures it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 12, 5, 2), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(432, CLASSES)
        ).eval()
        self.asked = 0

    def forward(self, pictures: Any) -> Any:
        self.asked += len(pictures)
        with torch.no_grad():
            return self.layers(3 * (pictures - 0.5))

    def scores(self, pictures: Pictures) -> np.ndarray:
        return np.asarray(self(torch.from_numpy(pictures)))

    def top(self, pictures: Pictures) -> np.ndarray:
        return np.asarray(self.scores(pictures).argmax(axis=1))


@dataclass(frozen=True)
class Outcome:
    """Which pictures stand, [pictures], and how often the network was asked."""

    stands: np.ndarray
    asked: int


@dataclass(frozen=True)
class Case:
    """Pictures that a network is asked about, labelled with its own answers."""

    network: Counted
    pictures: Pictures
    labels: Labels

    def ours(self, attack: Attack, gives: str, seed: int = 0) -> Outcome:
        answers = self.network.scores if gives == SCORES else self.network.top
        rngs = generators(len(self.pictures), seed)
        return self._outcome(lambda: attack(Ledger(answers, 64, gives), self.pictures, self.labels, rngs))

    def theirs(self, attack: Callable[[Any, Any], Any]) -> Outcome:
        return self._outcome(lambda: attack(torch.from_numpy(self.pictures), torch.from_numpy(self.labels)).numpy())

    def _outcome(self, attacked: Callable[[], Pictures]) -> Outcome:
        self.network.asked = 0
        found = attacked()
        asked = self.network.asked
        return Outcome(self.network.top(found) == self.labels, asked)


def weaker_by(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> float:
    """How much robust accuracy ours leaves more than theirs: the lower end of a 95 % interval, paired on pictures."""
    left = np.mean([one.stands for one in ours], axis=0) - np.mean([one.stands for one in theirs], axis=0)
    return float(left.mean() - 2 * left.std() / np.sqrt(len(left)))


def package(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed: pip install {name}")


@pytest.fixture(scope="module")
def case() -> Case:
    torch.set_num_threads(1)  # these are many small operations
    network = Counted()
    pictures = np.random.default_rng(2).uniform(0, 1, (PICTURES, 3, SIDE, SIDE)).astype(np.float32)
    return Case(network, pictures, network.top(pictures))


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.03), ("l2", 0.35)])
def test_square_is_as_strong_as_that_of_torchattacks(case: Case, norm: str, epsilon: float) -> None:
    peer, queries, budget = package("torchattacks").Square, 60, Budget(norm, epsilon)
    called = {"linf": "Linf", "l2": "L2"}[norm]

    def in_parts(seed: int, pictures: Any, labels: Any) -> Any:
        # Theirs draws the same squares for all pictures of a call, so that one call says little: ten at a time.
        parts = zip(pictures.split(10), labels.split(10), strict=True)
        attacks = (
            peer(case.network, norm=called, eps=epsilon, n_queries=queries, seed=100 * seed + n) for n in count()
        )
        return torch.cat([attack(*part) for attack, part in zip(attacks, parts, strict=False)])

    theirs = [case.theirs(partial(in_parts, seed)) for seed in SEEDS]
    assert 0.05 < np.mean([one.stands for one in theirs]) < 0.95, "the budget tells nothing apart"
    # Theirs asks about the clean pictures and where the search begins without counting either.
    ours = [case.ours(square(budget, queries=queries + 2), SCORES, seed) for seed in SEEDS]
    assert weaker_by(ours, theirs) <= MARGIN
    assert sum(one.asked for one in ours) <= 1.05 * sum(one.asked for one in theirs)
    weak = [case.ours(square(budget, queries=queries // 4), SCORES, seed) for seed in SEEDS]
    assert weaker_by(weak, theirs) > MARGIN, "a search with a quarter of the queries passes for as strong"


def test_rays_breaks_more_than_hop_skip_jump_with_as_many_queries(case: Case) -> None:
    foolbox, few = package("foolbox"), Case(case.network, case.pictures[:60], case.labels[:60])
    model = foolbox.PyTorchModel(case.network.eval(), bounds=(0, 1), device="cpu")
    peer = foolbox.attacks.HopSkipJumpAttack(steps=3, constraint="linf")
    theirs = few.theirs(lambda pictures, labels: peer(model, pictures, labels, epsilons=[0.05])[1][0])
    ours = few.ours(rays(Budget("linf", 0.05), queries=theirs.asked // 60), DECISION)
    assert ours.asked <= theirs.asked
    assert weaker_by([ours], [theirs]) <= MARGIN
    assert ours.stands.mean() < 0.8
