"""Every attack of the table keeps the promises of `noise.adversarial.base.Attack`."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the network of the checks is made of tensors")

from harness.registry import ATTACK_TABLE
from noise.adversarial import ATTACKS
from noise.adversarial.base import Budget
from tests.noise.adversarial import conformance
from tests.noise.adversarial.conformance import BRIEF, EPSILON, THOROUGH, Subject


def subject(name: str, budget: Budget, wish: Mapping[str, int] = BRIEF) -> Subject:
    return Subject(conformance.made(ATTACK_TABLE.resolve(name), budget, wish), budget, ATTACKS[name].needs)


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: str(check.__name__))
@pytest.mark.parametrize(("name", "norm"), conformance.rows())
def test_attack_keeps_its_promises(name: str, norm: str, check: conformance.Check) -> None:
    check(subject(name, Budget(norm, EPSILON[norm][0])), conformance.case())


@pytest.mark.parametrize(("name", "norm"), conformance.rows())
def test_attack_misleads_everything_with_a_large_budget(name: str, norm: str) -> None:
    if name in conformance.CONTROLS:
        pytest.skip("a control looks for nothing")
    budget = Budget(norm, EPSILON[norm][1])
    conformance.check_misleads_all_with_a_large_budget(subject(name, budget, THOROUGH), conformance.case())


@pytest.mark.parametrize(("name", "norm"), conformance.rows())
@settings(max_examples=6, deadline=None)
@given(share=st.floats(1e-3, 1), seed=st.integers(0, 50))
def test_attack_stays_within_any_budget(name: str, norm: str, share: float, seed: int) -> None:
    budget = Budget(norm, share * EPSILON[norm][1])
    conformance.check_within_budget(subject(name, budget), conformance.case(seed, count=3))
