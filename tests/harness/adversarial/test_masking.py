"""Masking: every check on answers that are known to be sound, and on such as only look it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.adversarial.doubt import Answers, _asks, _follows_gradients, _queries_against_gradients, base_of
from harness.adversarial.masking import (
    FAILED,
    GENUINE,
    MASKED,
    OPEN,
    PASSED,
    UNDECIDED,
    Check,
    Sides,
    check_gradients,
    check_monotone,
    check_output,
    check_queries,
    check_random_noise,
    check_randomness,
    check_sets,
    check_steps,
    check_unbounded,
    judge_masking,
)
from harness.adversarial.models import ENGINE, TWIN
from harness.adversarial.sets import AdversarialSet
from noise.adversarial.base import budget_from_text


def check(outcome: str) -> Check:
    return Check("any", outcome, "", {})


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([PASSED, PASSED], GENUINE),
        ([PASSED, OPEN], UNDECIDED),
        ([OPEN, FAILED, PASSED], MASKED),
        ([], UNDECIDED),
    ],
)
def test_one_failed_check_is_enough_and_an_open_one_withholds_the_verdict(outcomes: list[str], verdict: str) -> None:
    assert judge_masking([check(each) for each in outcomes]).verdict == verdict


def test_answers_that_vary_are_random_whatever_their_scale() -> None:
    answers = np.random.default_rng(0).normal(size=(6, 10))
    assert check_randomness([answers, answers * 1.0, answers]).outcome == PASSED
    moved = answers.copy()
    moved[3, 2] += 0.01
    found = check_randomness([answers, moved])
    assert found.outcome == FAILED
    assert found.numbers["distance"] > found.numbers["limit"]


def test_saturated_probabilities_leave_the_verdict_open_and_logits_do_not() -> None:
    certain, soft = np.log(np.array([[1.0, 1e-30]] * 4)), np.log(np.array([[0.6, 0.4]] * 4))
    assert check_output("logits", certain).outcome == PASSED
    assert check_output("probabilities", soft).outcome == PASSED
    assert check_output("probabilities", certain).outcome == OPEN


def test_probabilities_are_known_by_their_values_whatever_was_declared() -> None:
    soft = np.array([[0.6, 0.4], [0.1, 0.9], [1.0, 0.0]])
    found = check_output("logits", soft)
    assert found.outcome == OPEN
    assert "output_kind" in found.evidence
    assert check_output("logits", soft - 0.2).outcome == PASSED
    assert check_output("logits", soft * 3).outcome == PASSED


@pytest.mark.parametrize(("zero", "outcome"), [(0, PASSED), (1, OPEN), (5, FAILED), (10, FAILED)])
def test_pictures_without_a_gradient_are_counted(zero: int, outcome: str) -> None:
    assert check_gradients(np.array([0.0] * zero + [0.1] * (10 - zero))).outcome == outcome


def sides(gradients: int, queries: int, asked: int = 1000) -> Sides:
    """Of 40 pictures the first ones stand."""
    by_gradient, by_queries = (np.arange(40) < each for each in (gradients, queries))
    return Sides("linf:2/255", by_gradient, by_queries, "pgd", "square", asked)


@pytest.mark.parametrize(
    ("gradients", "queries", "outcome"),
    [
        (0, 30, PASSED),  # following gradients is stronger, as it should be
        (20, 20, PASSED),
        (20, 18, OPEN),  # two pictures: more than 0.2 points, and chance
        (20, 15, FAILED),  # five to none
        (20, 10, FAILED),
    ],
)
def test_queries_that_break_what_gradients_left_are_the_alarm(gradients: int, queries: int, outcome: str) -> None:
    (found,) = check_queries([sides(gradients, queries)])
    assert found.outcome == outcome


def test_five_more_are_no_alarm_where_others_fall_to_gradients_alone() -> None:
    by_gradient, by_queries = np.arange(40) < 20, (np.arange(40) >= 6) & (np.arange(40) < 21)  # 6 to 1
    (found,) = check_queries([Sides("linf:2/255", by_gradient, by_queries, "pgd", "square", 1000)])
    assert (found.numbers["only_by_queries"], found.outcome) == (6, OPEN)


def test_one_alarm_among_several_budgets_must_be_beyond_the_chance_of_all() -> None:
    quiet = [sides(20, 20)] * 3
    assert check_queries([sides(20, 15), *quiet])[0].outcome == OPEN
    assert check_queries([sides(20, 12), *quiet])[0].outcome == FAILED
    assert check_queries([sides(20, 15), *quiet])[0].numbers["chance"] == pytest.approx(4 / 2**5)


@pytest.mark.parametrize(
    ("gradients", "queries", "outcome"),
    [
        (20, 20, OPEN),  # hardly asked
        (0, 20, PASSED),  # nothing was left to break
        (20, 10, FAILED),  # so few, and they break what gradients do not
    ],
)
def test_few_queries_that_break_nothing_more_say_nothing(gradients: int, queries: int, outcome: str) -> None:
    assert check_queries([sides(gradients, queries, asked=99)])[0].outcome == outcome


def stored(tmp_path: Path, attack: str, source: str, kind: str, **made: object) -> AdversarialSet:
    """A set as it is described, without pictures."""
    like = {"attack": attack, "source": {"name": source, "kind": kind}, "start": None, **made}
    return AdversarialSet(tmp_path, like, {})


def test_what_counts_as_asking_and_as_following_gradients(tmp_path: Path) -> None:
    transferred = stored(tmp_path, "pgd:steps=20", "twin", TWIN)
    cascade = stored(tmp_path, "autoattack", "twin", TWIN)  # ends in Square on the twin
    asked = stored(tmp_path, "square:queries=100", "ort-cpu:fp32", ENGINE)
    control = stored(tmp_path, "random-noise:queries=500", "ort-cpu:fp32", ENGINE)
    refined = stored(tmp_path, "square", "ort-cpu:fp32", ENGINE, start={"name": "other"})
    every = (transferred, cascade, asked, control, refined)
    assert [_follows_gradients(each) for each in every] == [True, False, False, False, False]
    assert [_asks(each, "ort-cpu:fp32") for each in every] == [False, False, True, False, False]
    assert not _asks(asked, "ort-cpu:integer")


@pytest.mark.parametrize(
    ("sources", "below", "reason"),
    [
        (("twin",), False, "by asking this engine"),
        (("ort-cpu:fp32",), False, "by following gradients"),
        (("twin", "ort-cpu:fp32"), True, "no 8-bit picture"),
    ],
)
def test_a_comparison_for_which_a_side_is_missing_is_a_row_and_no_pass(
    tmp_path: Path, sources: tuple[str, ...], below: bool, reason: str
) -> None:
    described = {"twin": ("pgd", TWIN), "ort-cpu:fp32": ("square", ENGINE)}
    sets = [
        stored(tmp_path, attack, source, kind, budget="linf:2/255", below_a_level=below)
        for source, (attack, kind) in described.items()
        if source in sources
    ]
    (found,) = _queries_against_gradients("ort-cpu:fp32", Answers({}, {}, {}, ()), sets)
    assert found.outcome == OPEN
    assert found.name == "queries against gradients, linf:2/255"
    assert reason in found.evidence


@pytest.mark.parametrize(
    ("robust", "outcome"),
    [({"1": 0.5, "2": 0.2, "4": 0.0}, PASSED), ({"1": 0.2, "2": 0.3}, OPEN), ({"1": 0.1, "2": 0.6}, FAILED)],
)
def test_more_must_not_help_the_model(robust: dict[str, float], outcome: str) -> None:
    assert check_monotone("epsilon", robust, 20).outcome == outcome


@pytest.mark.parametrize(
    ("robust", "outcome"),
    [
        ({1: 0.9, 20: 0.2, 40: 0.15}, PASSED),
        ({1: 0.9, 20: 0.6, 40: 0.5}, OPEN),  # every doubling still breaks two pictures
        ({1: 0.1, 20: 0.6, 40: 0.5}, FAILED),
    ],
)
def test_an_attack_by_steps_has_converged_or_leaves_the_verdict_open(robust: dict[int, float], outcome: str) -> None:
    assert check_steps(robust, 20).outcome == outcome


@pytest.mark.parametrize(
    ("by_sets", "by_own", "outcome"),
    [(5, 5, PASSED), (5, 12, PASSED), (8, 5, PASSED), (10, 5, OPEN), (None, 5, OPEN)],
)
def test_sets_that_are_weaker_than_the_doubts_own_attack_leave_the_verdict_open(
    by_sets: int | None, by_own: int, outcome: str
) -> None:
    standing = np.arange(20)
    found = check_sets("linf:2/255", standing < by_own, None if by_sets is None else standing < by_sets)
    assert found.outcome == outcome
    assert ("the attacks of the report are too weak" in found.evidence) == (by_sets == 10)


@pytest.mark.parametrize(("robust", "outcome"), [(0.0, PASSED), (0.05, OPEN), (0.5, FAILED)])
def test_a_budget_that_hides_everything_leaves_nothing_standing(robust: float, outcome: str) -> None:
    assert check_unbounded("linf:64/255", robust, 20).outcome == outcome


@pytest.mark.parametrize(
    ("noise", "attack", "outcome"),
    [
        (1, 18, PASSED),
        (0, 5, PASSED),
        (0, 1, OPEN),  # one picture is chance
        (0, 0, OPEN),  # nothing falls to either: there is nothing to compare
        (9, 10, OPEN),
        (8, 15, OPEN),  # better than noise, and not far better
        (12, 4, FAILED),  # noise finds what the attack does not
        (20, 20, PASSED),  # the model is broken by anything, and the attack has found all there is
    ],
)
def test_an_attack_is_far_stronger_than_noise_of_its_size(noise: int, attack: int, outcome: str) -> None:
    clean = np.ones(20, bool)
    by_noise, by_attack = (np.arange(20) >= each for each in (noise, attack))
    assert check_random_noise(by_noise, by_attack, clean, "linf:2/255").outcome == outcome


def test_noise_that_breaks_other_pictures_is_compared_picture_by_picture() -> None:
    clean = np.ones(20, bool)
    by_noise, by_attack = np.arange(20) >= 3, np.arange(20) < 12  # 3 fall to noise, and 8 others to the attack
    found = check_random_noise(by_noise, by_attack, clean, "linf:2/255")
    assert (found.numbers["only_noise"], found.numbers["only_attack"]) == (3, 8)
    assert found.outcome == OPEN


def test_too_few_right_pictures_leave_the_comparison_with_noise_open() -> None:
    assert check_random_noise(np.ones(9, bool), np.zeros(9, bool), np.ones(9, bool), "linf:2/255").outcome == OPEN


def test_experiments_are_made_within_the_least_budget_that_an_8_bit_picture_carries(tmp_path: Path) -> None:
    def made(*budgets: str) -> list[AdversarialSet]:
        each = [budget_from_text(text) for text in budgets]
        return [AdversarialSet(tmp_path, {"norm": one.norm, "epsilon": one.epsilon}, {}) for one in each]

    assert base_of(made("8/255", "0.5/255", "4/255", "l2:0.5")).name == "linf:4/255"
    assert base_of(made("0.5/255", "l2:0.5")).name == "linf:2/255"
