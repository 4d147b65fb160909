"""The conformance checks catch attacks that are broken on purpose, each by the check that is meant for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the network of the checks is made of tensors")

from noise.adversarial.base import Budget, Labels, Pictures  # noqa: E402 - behind the skip
from tests.noise.adversarial import conformance  # noqa: E402
from tests.noise.adversarial.conformance import Subject  # noqa: E402

Generators = Sequence[np.random.Generator]
BUDGET = Budget("linf", 0.05)


def within(pictures: Pictures, change: np.ndarray, labels: Labels, model: Any) -> Pictures:
    """Pictures that are read right, changed; the others as they are."""
    with torch.no_grad():
        right = np.asarray(model(torch.from_numpy(pictures)).argmax(1)) == labels
    moved = np.clip(pictures + np.clip(change, -BUDGET.epsilon, BUDGET.epsilon), 0, 1)
    return np.where(right[:, None, None, None], moved, pictures).astype(np.float32)


def noise(shape: tuple[int, ...], rngs: Generators) -> np.ndarray:
    return np.stack([rng.uniform(-BUDGET.epsilon, BUDGET.epsilon, shape) for rng in rngs])


def sound(model: Any, pictures: Pictures, labels: Labels, rngs: Generators) -> Pictures:
    if not len(pictures):
        return pictures.copy()
    return within(pictures, noise(pictures.shape[1:], rngs), labels, model)


def leaves_the_ball(model: Any, pictures: Pictures, labels: Labels, rngs: Generators) -> Pictures:
    moved = sound(model, pictures, labels, rngs)
    return np.clip(pictures + (moved - pictures) * 1.1, 0, 1)


def leaves_the_box(model: Any, pictures: Pictures, labels: Labels, rngs: Generators) -> Pictures:
    return (pictures + noise(pictures.shape[1:], rngs)).astype(np.float32)


def gives_doubles(model: Any, pictures: Pictures, labels: Labels, rngs: Generators) -> Pictures:
    return sound(model, pictures, labels, rngs).astype(np.float64)


def draws_for_all_from_one(model: Any, pictures: Pictures, labels: Labels, rngs: Generators) -> Pictures:
    return sound(model, pictures, labels, [rngs[0]] * len(rngs))


def draws_globally(model: Any, pictures: Pictures, labels: Labels, rngs: Generators) -> Pictures:
    change = (torch.rand(pictures.shape) - 0.5).numpy() * BUDGET.epsilon
    return within(pictures, change, labels, model)


def looks_at_the_mean(model: Any, pictures: Pictures, labels: Labels, rngs: Generators) -> Pictures:
    """Its step depends on what the other pictures look like, as one step size for a whole batch would."""
    return within(pictures, (pictures - pictures.mean()) * 0.1, labels, model)


def writes_to_its_input(model: Any, pictures: Pictures, labels: Labels, rngs: Generators) -> Pictures:
    pictures[:] = sound(model, pictures, labels, rngs)
    return pictures


def attacks_what_is_misread(model: Any, pictures: Pictures, labels: Labels, rngs: Generators) -> Pictures:
    return np.clip(pictures + noise(pictures.shape[1:], rngs), 0, 1).astype(np.float32)


def fails_without_pictures(model: Any, pictures: Pictures, labels: Labels, rngs: Generators) -> Pictures:
    return sound(model, pictures, labels, rngs) if len(pictures) else np.zeros((1, 3, 8, 8), np.float32)


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: str(check.__name__))
def test_sound_attack_passes_every_check(check: conformance.Check) -> None:
    check(Subject(sound, BUDGET), conformance.case())


@pytest.mark.parametrize(
    ("broken", "check", "message"),
    [
        (leaves_the_ball, conformance.check_within_budget, "left linf"),
        (leaves_the_box, conformance.check_within_budget, r"left linf:.* or \[0, 1\]"),
        (gives_doubles, conformance.check_within_budget, "expected float32, got float64"),
        (draws_for_all_from_one, conformance.check_alone_as_in_company, "depends on the others"),
        (looks_at_the_mean, conformance.check_alone_as_in_company, "depends on the others"),
        (draws_globally, conformance.check_repeats, "other pictures"),
        (draws_globally, conformance.check_leaves_global_generators_alone, "a global generator"),
        (writes_to_its_input, conformance.check_leaves_input_alone, "wrote to"),
        (attacks_what_is_misread, conformance.check_returns_misread_pictures, "was changed"),
        (fails_without_pictures, conformance.check_takes_no_pictures, "became some"),
        (sound, conformance.check_misleads_all_with_a_large_budget, "still read as they are labelled"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_broken_attack_is_caught(broken: Callable[..., Any], check: conformance.Check, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(Subject(broken, BUDGET), conformance.case())
