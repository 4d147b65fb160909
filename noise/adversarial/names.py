"""Attacks as text: ``pgd``, ``pgd:steps=40,early=true``; the name of a row, then parameters of its factory."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from noise.adversarial import ATTACKS
from noise.adversarial.base import Attack, Budget
from noise.base import NoiseError

Factory = Callable[..., Attack]
Value = bool | int | float | str


class AttackName(NamedTuple):
    """What a text says: the row, and parameters as they are written."""

    row: str
    params: dict[str, str]


def attack_name_from_text(text: str) -> AttackName:
    """``NAME`` or ``NAME:PARAMETER=VALUE,...``.

    >>> attack_name_from_text("pgd:steps=40,early=true")
    AttackName(row='pgd', params={'steps': '40', 'early': 'true'})

    Raises:
        NoiseError: it is neither, or names a parameter twice.
    """
    row, _, rest = text.strip().partition(":")
    pairs = [part.strip() for part in rest.split(",")] if rest else []
    if not row or (":" in text and not rest) or not all(re.fullmatch(r"\w+=[^=]+", pair) for pair in pairs):
        raise NoiseError(f"an attack is written NAME or NAME:PARAMETER=VALUE,..., such as pgd:steps=40; got {text!r}")
    params = dict(pair.split("=") for pair in pairs)
    if len(params) < len(pairs):
        raise NoiseError(f"an attack takes each parameter once; got {text!r}")
    return AttackName(row, params)


def attack_from_name(text: str, budget: Budget, resolve: Callable[[str], Factory]) -> Attack:
    """The attack that a text stands for.

    Args:
        text: see `attack_name_from_text`.
        budget: how far it may go.
        resolve: from the name of a row to its factory, such as ``ATTACK_TABLE.resolve`` of `harness.registry`, which
            knows plug-ins too.

    Raises:
        NoiseError: the text is not well formed, the row is not bounded in this norm, or its factory does not take a
            parameter or its value.
    """
    name = attack_name_from_text(text)
    factory = resolve(name.row)
    norms = ATTACKS[name.row].norms if name.row in ATTACKS else (budget.norm,)
    if budget.norm not in norms:
        able = [row for row, entry in ATTACKS.items() if budget.norm in entry.norms]
        raise NoiseError(
            f"the attack {name.row!r} is bounded in {', '.join(norms)}; got the budget {budget.name}. "
            f"In {budget.norm} there are {', '.join(able)}"
        )
    return factory(budget, **_values(name, factory))


def _values(name: AttackName, factory: Factory) -> dict[str, Value]:
    """The parameters as the factory takes them: each of the type that its default has."""
    parameters = {
        key: each for key, each in inspect.signature(factory).parameters.items() if each.kind is each.KEYWORD_ONLY
    }
    for key in name.params:
        if key not in parameters:
            raise NoiseError(f"the attack {name.row!r} has no parameter {key!r}{_nearest(key, parameters)}")
    return {key: _value(f"{name.row}:{key}", text, parameters[key].default) for key, text in name.params.items()}


def _nearest(got: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(got, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{hint} It takes {', '.join(names) or 'none'}"


def _value(what: str, text: str, default: Any) -> Value:
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise NoiseError(f"{what} is true or false; got {text!r}")
        return text.lower() == "true"
    for kind, called in ((int, "a whole number"), (float, "a number")):
        if isinstance(default, kind):
            try:
                return kind(text)
            except ValueError as error:
                raise NoiseError(f"{what} is {called}; got {text!r}") from error
    return text
