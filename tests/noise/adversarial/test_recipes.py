"""Every recipe names attacks that exist, with parameters that they take, in norms that they have."""

from __future__ import annotations

import pytest

from harness.registry import attack_from_text
from noise.adversarial import ATTACKS
from noise.adversarial.base import Budget
from noise.adversarial.names import attack_name_from_text
from noise.adversarial.recipes import RECIPES, Planned, Recipe
from noise.base import NoiseError

OPEN = [name for name, recipe in RECIPES.items() if any(each.budget is None for each in recipe.attacks)]
BUDGET = Budget("linf", 4 / 255)
# Attacks by queries that recipes name before they have a row.
AWAITED = {"square"} - set(ATTACKS)


def complete(name: str) -> Recipe:
    return RECIPES[name].with_budget(BUDGET if name in OPEN else None)


@pytest.mark.parametrize("name", RECIPES)
def test_every_attack_of_a_recipe_can_be_made(name: str) -> None:
    pytest.importorskip("torch", reason="gradient attacks need torch")
    for planned in complete(name).attacks:
        assert planned.budget is not None
        if attack_name_from_text(planned.attack).row not in AWAITED:
            assert callable(attack_from_text(planned.attack, planned.budget))


@pytest.mark.parametrize("name", RECIPES)
def test_budgets_are_given_where_they_are_left_open_and_nowhere_else(name: str) -> None:
    with pytest.raises(NoiseError, match="give one, such as 4/255" if name in OPEN else "has budgets of its own"):
        RECIPES[name].with_budget(None if name in OPEN else BUDGET)


def test_autoattack_is_the_standard_cascade() -> None:
    recipe = complete("autoattack")
    assert [attack_name_from_text(each.attack).row for each in recipe.attacks] == [
        "apgd-ce",
        "apgd-t",
        "fab-t",
        "square",
    ]
    assert recipe.cascades
    assert {each.budget for each in recipe.attacks} == {BUDGET}


@pytest.mark.parametrize(("size", "level", "l1_step", "mim_step"), [("small", 0.5, 1, 1), ("middle", 2, 0.3, 0.255)])
def test_fixed_steps_of_robustart_are_shares_of_epsilon_and_end_there(
    size: str, level: float, l1_step: float, mim_step: float
) -> None:
    attacks = RECIPES[f"robustart-{size}"].attacks
    params = {
        (name.row, planned.budget.norm): float(name.params["step"])
        for planned in attacks
        if planned.budget and (name := attack_name_from_text(planned.attack)).row in ("pgd", "mi-fgsm")
    }
    assert params[("pgd", "linf")] == params[("pgd", "l2")] == 0.075
    assert params[("pgd", "l1")] == pytest.approx(l1_step)
    assert params[("mi-fgsm", "linf")] == pytest.approx(mim_step)
    assert Planned("fgsm", Budget("linf", level / 255)) in attacks


def test_budgets_of_robustart_that_no_8_bit_picture_carries_are_the_small_ones() -> None:
    below = {
        name
        for name, recipe in RECIPES.items()
        for planned in recipe.attacks
        if planned.budget and planned.budget.below_a_level
    }
    assert below == {"robustart-small"}
