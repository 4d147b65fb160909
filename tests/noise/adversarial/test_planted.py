"""Every attack finds the adversarial picture that is known to exist; broken attacks do not (Zimmermann et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the networks are made of tensors")

from harness.registry import ATTACK_TABLE  # noqa: E402 - behind the skip
from noise.adversarial import ATTACKS  # noqa: E402
from noise.adversarial.base import NORMS, Attack, Budget, Pictures  # noqa: E402
from noise.adversarial.gradient.ball import ball_of  # noqa: E402
from noise.adversarial.gradient.pgd import pgd  # noqa: E402
from tests.noise.adversarial import conformance  # noqa: E402
from tests.noise.adversarial.planted import Planted, planted  # noqa: E402

BUDGETS = {"linf": 0.03, "l2": 0.3, "l1": 1.5}
SEEDS = range(3)


def found(attack: Attack, needs: str, network: Planted, budget: Budget) -> bool:
    label = np.zeros(1, np.int64)
    picture = attack(conformance.given(needs, network), network.original.copy(), label, conformance.rngs(1))
    assert budget.holds(picture, network.original).all()
    return bool(network.top(picture)[0] != 0)


def random_noise(model: Any, pictures: Pictures, labels: Any, rngs: Sequence[Any], budget: Budget) -> Pictures:
    """The best of 300 random pictures of the budget."""
    for _ in range(300):
        drawn = np.asarray(ball_of(budget).start(torch.from_numpy(pictures), rngs))
        if model.top(drawn)[0] != labels[0]:
            return drawn
    return pictures


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", SEEDS)
def test_planted_picture_exists_and_is_not_found_by_chance(norm: str, seed: int) -> None:
    budget = Budget(norm, BUDGETS[norm])
    network = planted(budget, seed)
    assert budget.holds(network.planted, network.original).all()
    assert list(network.top(np.concatenate([network.original, network.planted]))) == [0, 1]
    assert not found(lambda *given: random_noise(*given, budget), "gradient", network, budget)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("name", "norm"), conformance.rows())
def test_attack_finds_the_picture_that_exists_and_a_control_does_not(name: str, norm: str, seed: int) -> None:
    budget = Budget(norm, BUDGETS[norm])
    attack = conformance.made(ATTACK_TABLE.resolve(name), budget, conformance.THOROUGH)
    finds = found(attack, ATTACKS[name].needs, planted(budget, seed), budget)
    assert finds == (name not in conformance.CONTROLS)


class NoGradients(Planted):
    """A network that lets no gradient through, as an attack on a rounded input without a stand-in for it would see."""

    def __call__(self, pictures: Any) -> Any:
        return super().__call__(pictures.detach()) + 0 * pictures.sum()


class WrongWay(Planted):
    """A network whose gradients lead down, as an attack with the wrong sign would see."""

    def __call__(self, pictures: Any) -> Any:
        return super().__call__(2 * pictures.detach() - pictures)


@pytest.mark.parametrize("broken", [NoGradients, WrongWay])
@pytest.mark.parametrize("norm", NORMS)
def test_attack_with_broken_gradients_does_not_find_it(norm: str, broken: type[Planted]) -> None:
    budget = Budget(norm, BUDGETS[norm])
    for seed in SEEDS:
        network = broken(**vars(planted(budget, seed)))
        assert not found(pgd(budget), "gradient", network, budget)
