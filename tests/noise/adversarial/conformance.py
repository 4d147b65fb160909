"""What every row of `noise.adversarial.ATTACKS` promises, as checks that a small network makes quick.

A row joins by being in the table: what it needs decides in which form it is given the network.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noise.adversarial import ATTACKS, GRADIENT
from noise.adversarial.base import Attack, Budget, Labels, Pictures
from noise.seed import generator

SIDE = 8
CLASSES = 6
# Wide enough that some pictures fall and some stand; the second number makes all of them fall.
EPSILON = {"linf": (0.02, 0.6), "l2": (0.2, 8.0), "l1": (1.0, 90.0)}
# Where a factory has such parameters: enough to try its promises, and enough to find what is there to be found.
BRIEF = {"steps": 12, "queries": 100}
THOROUGH = {"steps": 12, "queries": 3000}
# Rows that look for nothing: what they find is found by chance.
CONTROLS = {"random-noise"}


@dataclass(frozen=True)
class Network:
    """A classifier of pictures [n, 3, 8, 8] that computes every picture by itself, so that company changes no bit."""

    inner: Tensor
    outer: Tensor

    def __call__(self, pictures: Tensor) -> Tensor:
        return torch.stack([self.outer @ torch.tanh(self.inner @ (picture.flatten() - 0.5)) for picture in pictures])

    def predict(self, pictures: Pictures) -> np.ndarray:
        """Scores [n, classes] of NumPy."""
        with torch.no_grad():
            return np.asarray(self(torch.from_numpy(pictures)))

    def top(self, pictures: Pictures) -> np.ndarray:
        """The top class of each picture, int64 [n]."""
        return np.asarray(self.predict(pictures).argmax(1))


def network(seed: int = 0) -> Network:
    rng = np.random.default_rng(seed)
    inner, outer = rng.normal(0, 0.25, (24, 3 * SIDE * SIDE)), rng.normal(0, 1, (CLASSES, 24))
    return Network(torch.tensor(inner, dtype=torch.float32), torch.tensor(outer, dtype=torch.float32))


@dataclass(frozen=True)
class Case:
    """A network with pictures that it reads right, and where the last ones are labelled otherwise, misreads."""

    network: Network
    pictures: Pictures
    labels: Labels
    misread: int = 2


def case(seed: int = 0, count: int = 6) -> Case:
    drawn = np.random.default_rng(seed + 100).uniform(-0.1, 1.1, (count, 3, SIDE, SIDE))
    pictures = np.clip(drawn, 0, 1).astype(np.float32)
    seen = network(seed)
    labels = seen.top(pictures).astype(np.int64)
    labels[-Case.misread :] = (labels[-Case.misread :] + 1) % CLASSES
    return Case(seen, pictures, labels)


def rngs(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [generator(seed, "attack", f"picture {number}") for number in range(count)]


def made(factory: Callable[..., Attack], budget: Budget, wish: Mapping[str, int] = BRIEF) -> Attack:
    """An attack with those of the wished parameters that its factory has."""
    parameters = inspect.signature(factory).parameters
    return factory(budget, **{name: value for name, value in wish.items() if name in parameters})


def given(needs: str, classifier: Any) -> Any:
    """The network as an attack takes it."""
    if needs == GRADIENT:
        return classifier
    from noise.adversarial.ledger import Ledger

    return Ledger(classifier.predict if needs == "scores" else classifier.top, batch=64, gives=needs)


def rows() -> list[tuple[str, str]]:
    """(attack, norm), all that the table offers."""
    return [(name, norm) for name, entry in ATTACKS.items() for norm in entry.norms]


@dataclass(frozen=True)
class Subject:
    """An attack under test, its budget, and what it needs of a model."""

    attack: Attack
    budget: Budget
    needs: str = GRADIENT

    def run(self, seen: Case, only: Sequence[int] | None = None) -> Pictures:
        """Attack the pictures of a case, or some of them with the generators that they have in the whole."""
        model, own = given(self.needs, seen.network), rngs(len(seen.pictures))
        if only is None:
            return self.attack(model, seen.pictures, seen.labels, own)
        chosen = list(only)
        return self.attack(model, seen.pictures[chosen], seen.labels[chosen], [own[number] for number in chosen])


def check_within_budget(subject: Subject, seen: Case) -> None:
    found = subject.run(seen)
    assert found.dtype == np.float32, f"expected float32, got {found.dtype}"
    assert found.shape == seen.pictures.shape, f"expected {seen.pictures.shape}, got {found.shape}"
    assert np.isfinite(found).all(), "a value is no number"
    within = subject.budget.holds(found, seen.pictures)
    distances = subject.budget.distance(found, seen.pictures)
    assert within.all(), f"left {subject.budget.name} or [0, 1]: distances {distances}"


def check_alone_as_in_company(subject: Subject, seen: Case) -> None:
    together = subject.run(seen)
    for number in range(len(seen.pictures)):
        (alone,) = subject.run(seen, [number])
        assert np.allclose(alone, together[number], atol=1e-6), f"picture {number} depends on the others"
    backwards = subject.run(seen, range(len(seen.pictures))[::-1])[::-1]
    assert np.allclose(backwards, together, atol=1e-6), "pictures depend on their order"


def check_repeats(subject: Subject, seen: Case) -> None:
    found = []
    for seed in (0, 1):
        np.random.seed(seed)  # noqa: NPY002 - to show that it does not matter
        torch.manual_seed(seed)
        found.append(subject.run(seen))
    np.testing.assert_array_equal(*found, "a second run gave other pictures")


def check_leaves_global_generators_alone(subject: Subject, seen: Case) -> None:
    def states() -> list[bytes]:
        return [np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()]  # noqa: NPY002

    before = states()
    subject.run(seen)
    assert states() == before, "drew from a global generator"


def check_leaves_input_alone(subject: Subject, seen: Case) -> None:
    pictures, labels = seen.pictures.copy(), seen.labels.copy()
    subject.run(seen)
    assert np.array_equal(seen.pictures, pictures), "wrote to the pictures"
    assert np.array_equal(seen.labels, labels), "wrote to the labels"


def check_returns_misread_pictures(subject: Subject, seen: Case) -> None:
    found = subject.run(seen)
    np.testing.assert_array_equal(
        found[-seen.misread :], seen.pictures[-seen.misread :], "a picture that is already misread was changed"
    )


def check_misleads_all_with_a_large_budget(subject: Subject, seen: Case) -> None:
    standing = (seen.network.top(subject.run(seen)) == seen.labels).nonzero()[0]
    assert not len(standing), f"pictures {standing.tolist()} are still read as they are labelled"


def check_takes_no_pictures(subject: Subject, seen: Case) -> None:
    assert subject.run(seen, []).shape == (0, 3, SIDE, SIDE), "no pictures became some"


Check = Callable[[Subject, Case], None]

CHECKS: tuple[Check, ...] = (
    check_within_budget,
    check_alone_as_in_company,
    check_repeats,
    check_leaves_global_generators_alone,
    check_leaves_input_alone,
    check_returns_misread_pictures,
    check_takes_no_pictures,
)
