"""Attacks as text become attacks, and what is wrong with a text is said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.registry import ATTACK_TABLE, attack_from_text
from noise.adversarial.base import Attack, Budget
from noise.adversarial.names import AttackName, attack_from_name, attack_name_from_text
from noise.base import NoiseError

BUDGET = Budget("linf", 2 / 255)


def recording(
    budget: Budget, *, steps: int = 3, step: float = 0.5, early: bool = False, loss: str = "ce"
) -> tuple[object, ...]:
    """A double of a factory that gives back what it got."""
    return budget, steps, step, early, loss


def resolve(name: str) -> object:
    return {"pgd": recording, "foreign": recording}[name]


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("pgd", (3, 0.5, False, "ce")),
        ("pgd:steps=20", (20, 0.5, False, "ce")),
        (" pgd:step=0.075, early=true", (3, 0.075, True, "ce")),
        ("foreign:loss=dlr,early=False,step=1", (3, 1.0, False, "dlr")),
    ],
)
def test_text_becomes_parameters_of_the_types_that_the_factory_has(text: str, got: tuple[object, ...]) -> None:
    assert attack_from_name(text, BUDGET, resolve) == (BUDGET, *got)  # type: ignore[arg-type, comparison-overlap]


@pytest.mark.parametrize("text", ["", ":steps=3", "pgd:", "pgd:steps", "pgd:steps=", "pgd:steps=1=2", "pgd:steps=3,"])
def test_text_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(NoiseError, match="an attack is written NAME or NAME:PARAMETER=VALUE"):
        attack_name_from_text(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pgd:step=1,step=2", "each parameter once"),
        ("pgd:stps=20", "has no parameter 'stps'; did you mean 'steps'"),
        ("pgd:steps=2.5", "pgd:steps is a whole number; got '2.5'"),
        ("pgd:step=half", "pgd:step is a number; got 'half'"),
        ("pgd:early=1", "pgd:early is true or false; got '1'"),
    ],
)
def test_wrong_parameters_are_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(NoiseError, match=message):
        attack_from_name(text, BUDGET, resolve)  # type: ignore[arg-type]


@given(
    row=st.from_regex(r"[a-z][a-z-]{0,8}", fullmatch=True),
    params=st.dictionaries(
        st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.from_regex(r"[0-9.a-z]{1,6}", fullmatch=True), max_size=3
    ),
)
def test_what_is_written_is_read_back(row: str, params: dict[str, str]) -> None:
    rest = ",".join(f"{key}={value}" for key, value in params.items())
    assert attack_name_from_text(f"{row}:{rest}" if rest else row) == AttackName(row, params)


def test_unknown_attack_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(HarnessError, match=r"no attack 'apgd-c'; did you mean 'apgd-ce'\?"):
        attack_from_text("apgd-c", BUDGET)


def test_norm_that_an_attack_lacks_is_refused_with_those_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from noise import adversarial

    row = adversarial.ATTACKS["pgd"]._replace(norms=("l2",))
    monkeypatch.setitem(adversarial.ATTACKS, "pgd", row)
    with pytest.raises(
        NoiseError, match=r"'pgd' is bounded in l2; got the budget linf:2/255. In linf there are .*apgd-ce"
    ):
        attack_from_name("pgd", BUDGET, resolve)  # type: ignore[arg-type]


def test_plugin_becomes_an_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(budget: Budget, *, share: float = 1.0) -> Attack:
        assert (budget, share) == (BUDGET, 0.5)
        return lambda model, pictures, labels, rngs: pictures

    class Point:
        """A double of an entry point."""

        name, value, group = "nothing", "package:nothing", ATTACK_TABLE.group

    monkeypatch.setattr("harness.registry.entry_points", lambda group: [Point] if group == Point.group else [])
    monkeypatch.setattr("harness.registry.import_target", lambda what, target, extra: nothing)
    assert callable(attack_from_text("nothing:share=0.5", BUDGET))
