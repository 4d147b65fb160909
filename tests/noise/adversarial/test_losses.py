"""Losses and step sizes against the formulas of the papers, and parameters that no attack can work with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="losses are of tensors")

from harness.registry import attack_from_text  # noqa: E402 - behind the skip
from noise.adversarial.base import Budget  # noqa: E402
from noise.adversarial.gradient.apgd import Schedule  # noqa: E402
from noise.adversarial.gradient.losses import cross_entropy, dlr, targeted_dlr  # noqa: E402
from noise.base import NoiseError  # noqa: E402
from tests.noise.adversarial.conformance import case, rngs  # noqa: E402

BUDGET = Budget("linf", 2 / 255)
LOGITS = np.random.default_rng(0).normal(0, 3, (20, 7))
LABELS = np.random.default_rng(1).integers(0, 7, 20)
TARGETS = (LABELS + np.random.default_rng(2).integers(1, 7, 20)) % 7


def losses(loss: Any, scale: float = 1.0) -> np.ndarray:
    return np.asarray(loss(*map(torch.from_numpy, (LOGITS * scale, LABELS, TARGETS))))


def test_dlr_is_equation_6() -> None:
    expected = []
    for logits, label in zip(LOGITS, LABELS, strict=True):
        ordered = sorted(logits, reverse=True)
        others = max(value for number, value in enumerate(logits) if number != label)
        expected.append(-(logits[label] - others) / (ordered[0] - ordered[2]))
    np.testing.assert_allclose(losses(dlr), expected)


def test_targeted_dlr_is_equation_7() -> None:
    expected = []
    for logits, label, target in zip(LOGITS, LABELS, TARGETS, strict=True):
        first, _, third, fourth = sorted(logits, reverse=True)[:4]
        expected.append(-(logits[label] - logits[target]) / (first - (third + fourth) / 2))
    np.testing.assert_allclose(losses(targeted_dlr), expected)


def test_ratios_do_not_change_with_the_scale_of_logits_and_cross_entropy_does() -> None:
    for loss in (dlr, targeted_dlr):
        np.testing.assert_allclose(losses(loss, 1000.0), losses(loss))
    assert not np.allclose(losses(cross_entropy, 1000.0), losses(cross_entropy))


@given(steps=st.integers(1, 300))
def test_checkpoints_are_those_of_section_3_2(steps: int) -> None:
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    expected = {math.ceil(round(share * steps, 9)) for share in shares[1:-1]}
    assert Schedule(steps, 0.75, False).checkpoints() == sorted(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pgd:steps=0", "at least 1 step; got 0"),
        ("pgd:step=0", "a step is a share of epsilon"),
        ("pgd:step=2.5", "a step is a share of epsilon"),
        ("pgd:restarts=0", "at least once; got 0"),
        ("pgd:sparsity=0", "a share of the values"),
        ("mi-fgsm:decay=-1", "decay is 0 or more"),
        ("apgd-ce:steps=0", "steps from 1"),
        ("apgd-dlr:rho=1", r"rho in \(0, 1\)"),
        ("apgd-ce:restarts=0", "at least once; got 0"),
        ("apgd-t:targets=0", "at least 1 target"),
        ("fab-t:targets=0", "1 step and 1 target"),
    ],
)
def test_parameters_that_make_no_attack_are_refused(text: str, message: str) -> None:
    with pytest.raises(NoiseError, match=message):
        attack_from_text(text, BUDGET)


def test_ratio_of_too_few_classes_is_refused_with_the_way_out() -> None:
    with pytest.raises(NoiseError, match="3 highest logits, and the model has 2 classes; take apgd-ce"):
        dlr(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long))


def test_labels_and_generators_must_be_as_many_as_pictures() -> None:
    seen = case()
    with pytest.raises(NoiseError, match="got 6 pictures, 6 labels and 5 generators"):
        attack_from_text("pgd", BUDGET)(seen.network, seen.pictures, seen.labels, rngs(5))
