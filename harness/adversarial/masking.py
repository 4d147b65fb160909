"""Masking: whether what looks like robustness is only an attack that was led astray.

Rounding has no gradient, and a model whose gradients say nothing survives every attack that follows them. The checks
are those of AutoAttack (Croce and Hein, 2020; `checks.py` and `flags_doc.md`) and of Carlini et al. (2019), made
between the twin, on which gradients are followed, and the engine, which is asked. Each is a result with its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

GENUINE, MASKED, UNDECIDED = "genuine", "masked", "undecided"
PASSED, FAILED, OPEN = "passed", "failed", "undecided"

RANDOMNESS = "randomness"  # the check that sees every picture

# AutoAttack calls a model random where normalised logits of equal inputs differ by more (checks.py).
RANDOM_DISTANCE = 1e-4
# AutoAttack's alarm: queries that break more pictures than gradients do, in points of robust accuracy.
ALARM_POINTS = 0.2
# A picture whose loss has so small a gradient, everywhere, gives an attack no direction.
ZERO_GRADIENT = 1e-12
# Rows of probabilities sum to 1, but for the rounding of integer outputs.
SUM_TOLERANCE = 0.01
# A difference that comes up more often where there is none is put down to chance.
CHANCE = 0.05
# A search that was given fewer queries for a picture has hardly begun (Square's mean on an undefended network is 73).
ENOUGH_QUERIES = 100
# Of fewer pictures nothing is said.
FEW = 10

Correct = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Check:
    """One check.

    Args:
        name: what was looked at.
        outcome: `PASSED`, `FAILED` (speaks for masking) or `OPEN`.
        evidence: the finding in a sentence.
        numbers: on which it stands.
    """

    name: str
    outcome: str
    evidence: str
    numbers: Mapping[str, Any]


@dataclass(frozen=True)
class MaskingVerdict:
    """All checks, and what follows from them."""

    verdict: str
    checks: tuple[Check, ...]

    def describe(self) -> dict[str, Any]:
        """The verdict as JSON."""
        return asdict(self)


def judge_masking(checks: Sequence[Check]) -> MaskingVerdict:
    """Masked where a check failed, undecided where one is open, else genuine."""
    outcomes = {check.outcome for check in checks}
    verdict = MASKED if FAILED in outcomes else UNDECIDED if OPEN in outcomes or not checks else GENUINE
    return MaskingVerdict(verdict, tuple(checks))


def check_randomness(answers: Sequence[npt.NDArray[np.float64]]) -> Check:
    """Whether equal inputs get equal answers.

    Args:
        answers: logits [n, classes] of the same pictures, asked several times.
    """
    normalised = [each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-12) for each in answers]
    distance = max(float(np.linalg.norm(each - normalised[0], axis=1).max()) for each in normalised)
    random = distance > RANDOM_DISTANCE
    return Check(
        RANDOMNESS,
        FAILED if random else PASSED,
        f"{len(answers)} times the same {len(answers[0])} pictures: normalised logits differ by up to {distance:.1e}; "
        + ("attacks would have to average over it" if random else "the engine is deterministic"),
        {"repeats": len(answers), "n": len(answers[0]), "distance": distance, "limit": RANDOM_DISTANCE},
    )


def check_output(output_kind: str, logits: npt.NDArray[np.float64]) -> Check:
    """Whether a loss on the outputs has anything to climb: saturated probabilities have not.

    Args:
        output_kind: of the artifact, "logits" or "probabilities".
        logits: [n, classes], as the model gave them; of probabilities the logarithms.
    """
    if output_kind != "probabilities":
        found = _are_probabilities(logits)
        text = (
            "the outputs are probabilities (none below 0, rows that sum to 1) and are attacked as logits, on which a "
            'loss is almost flat; declare them: "output_kind": "probabilities"'
        )
        numbers = {"output_kind": output_kind, "probabilities": found, "n": len(logits)}
        return Check("outputs", OPEN if found else PASSED, text if found else "the model gives logits", numbers)
    saturated = int((np.exp(logits).max(axis=1) >= 1 - np.finfo(np.float32).eps).sum())
    share = saturated / len(logits)
    return Check(
        "outputs",
        OPEN if share > 0.5 else PASSED,
        f"the model gives probabilities, of which logarithms are taken; {saturated} of {len(logits)} are exactly 1, "
        "where a loss is flat",
        {"output_kind": output_kind, "probabilities": True, "saturated": saturated, "n": len(logits)},
    )


def _are_probabilities(values: npt.NDArray[np.float64]) -> bool:
    return bool((values >= 0).all() and np.allclose(values.sum(axis=1), 1, rtol=0, atol=SUM_TOLERANCE))


def check_gradients(norms: npt.NDArray[np.float64]) -> Check:
    """Whether the twin's loss has a gradient on the pictures.

    Args:
        norms: [n], the greatest absolute value of each picture's gradient.
    """
    zero = int((norms < ZERO_GRADIENT).sum())
    outcome = FAILED if 2 * zero >= len(norms) else OPEN if zero else PASSED
    return Check(
        "gradients",
        outcome,
        f"the loss has no gradient on {zero} of {len(norms)} pictures",
        {"zero": zero, "n": len(norms), "median": float(np.median(norms))},
    )


def check_not_made(name: str, reason: str) -> Check:
    """A check for which something is missing: that is no pass."""
    return Check(name, OPEN, f"not made: {reason}", {})


def silenced(check: Check) -> Check:
    """What a twin says that does not speak for the engine: neither a sign of masking nor of its absence."""
    return replace(check, outcome=OPEN, evidence=f"the twin does not speak for this engine; {check.evidence}")


@dataclass(frozen=True)
class Sides:
    """Both kinds of attack within one budget, on the same pictures.

    Args:
        budget: of both.
        by_gradient: [n], pictures that the engine reads right without an attack and under every set of attacks that
            follow gradients.
        by_queries: [n], the same under every set that was made by asking it.
        gradients, asked: these attacks, in words.
        queries: the most that one picture was given.
    """

    budget: str
    by_gradient: Correct
    by_queries: Correct
    gradients: str
    asked: str
    queries: int

    @property
    def only_by_queries(self) -> int:
        """Pictures that asking alone breaks."""
        return int((self.by_gradient & ~self.by_queries).sum())

    @property
    def chance(self) -> float:
        """How likely asking breaks so many more where neither kind is stronger (sign test, one-sided)."""
        return _sign_test(self.only_by_queries, int((self.by_queries & ~self.by_gradient).sum()))


def check_queries(sides: Sequence[Sides]) -> list[Check]:
    """Whether asking breaks pictures that following gradients left standing; a check for each budget.

    One picture of a hundred is a point already, and one budget of many comes out by chance: the alarm is beyond chance
    over all budgets (Holm, 1979). Five pictures to none are, six to one are not. Few queries that break nothing more
    say nothing.
    """
    chances = _holm([each.chance for each in sides])
    return [_of_sides(each, chance) for each, chance in zip(sides, chances, strict=True)]


def _of_sides(sides: Sides, chance: float) -> Check:
    n = len(sides.by_gradient)
    left, asked = int(sides.by_gradient.sum()), int(sides.by_queries.sum())
    points = 100 * (left - asked) / n if n else 0.0
    few = bool(left) and sides.queries < ENOUGH_QUERIES
    if points <= ALARM_POINTS:
        outcome = OPEN if few else PASSED
    elif chance < CHANCE:
        outcome = FAILED
    else:
        outcome = OPEN
    return Check(
        f"queries against gradients, {sides.budget}",
        outcome,
        f"{left} of {n} pictures stand against gradients ({sides.gradients}), {asked} against queries ({sides.asked}): "
        f"{points:+.1f} points" + ("; so few queries say little" if few and outcome == OPEN else ""),
        {
            "n": n,
            "gradients": left,
            "queries": asked,
            "only_by_queries": sides.only_by_queries,
            "chance": chance,
            "queries_per_picture": sides.queries,
            "limit_points": ALARM_POINTS,
        },
    )


def check_monotone(what: str, robust: Mapping[str, float], n: int) -> Check:
    """Whether more of something never helps the model.

    Args:
        what: "epsilon" or "steps".
        robust: how much of it -> robust accuracy, 0 to 1, the least first.
        n: pictures.
    """
    rise = max((later - earlier for earlier, later in pairwise(robust.values())), default=0.0)
    # One picture may come back by chance of the random start.
    outcome = PASSED if rise * n <= 1 + 1e-9 else FAILED if rise * n > 3 else OPEN
    listed = ", ".join(f"{value:.0%} at {key}" for key, value in robust.items())
    return Check(f"monotone in {what}", outcome, f"robust accuracy: {listed}", {"robust": dict(robust), "n": n})


def check_steps(robust: Mapping[int, float], n: int) -> Check:
    """Whether more steps never help the model, and the last doubling of them hardly breaks more.

    Args:
        robust: steps -> robust accuracy, 0 to 1, the least first; the last two are apart by a factor of two.
        n: pictures.
    """
    found = check_monotone("steps", {f"{steps} steps": each for steps, each in robust.items()}, n)
    before, last = list(robust.values())[-2:]
    more = round((before - last) * n)
    if found.outcome != PASSED or more <= 1:
        return found
    return replace(
        found,
        outcome=OPEN,
        evidence=f"{found.evidence}; the last doubling of steps still breaks {more} pictures more",
    )


def check_sets(budget: str, by_own: Correct, by_sets: Correct | None) -> Check:
    """Whether the attacks of a report are as strong as the one that doubts make by themselves.

    Args:
        budget: of both.
        by_own: [n], pictures right without an attack and under the doubts' own.
        by_sets: [n], the same pictures under every set of the budget; ``None`` where there is no such set.
    """
    name = "sets no weaker than the doubts' own attack"
    if by_sets is None:
        return check_not_made(name, f"no set has the budget {budget}")
    only_own, only_sets = int((by_sets & ~by_own).sum()), int((by_own & ~by_sets).sum())
    weaker = _sign_test(only_own, only_sets) < CHANCE
    n, sets, own = len(by_own), int(by_sets.sum()), int(by_own.sum())
    return Check(
        name,
        OPEN if weaker else PASSED,
        f"at {budget} {sets} of {n} pictures stand against the sets, {own} against the doubts' own PGD"
        + ("; the attacks of the report are too weak" if weaker else ""),
        {"n": n, "sets": sets, "own": own, "only_by_own": only_own},
    )


def check_unbounded(budget: str, robust: float, n: int) -> Check:
    """Whether a budget that hides every object leaves nothing standing."""
    standing = round(robust * n)
    outcome = PASSED if standing == 0 else FAILED if standing > 0.05 * n else OPEN
    return Check(
        "large epsilon",
        outcome,
        f"{standing} of {n} pictures stand at {budget}, where none should",
        {"budget": budget, "standing": standing, "n": n},
    )


def check_random_noise(by_noise: Correct, by_attack: Correct, clean: Correct, budget: str) -> Check:
    """Whether the attack is much stronger than noise of the same size.

    An attack that breaks all there is has nothing to show beside noise. Else it must break more than twice as many,
    and chance must not explain the difference; noise that breaks more than the attack, beyond chance, is the alarm.

    Args:
        by_noise, by_attack, clean: [n], pictures right under random noise, under the attack, and without either.
        budget: of both.
    """
    right = int(clean.sum())
    noise, attack = int((clean & ~by_noise).sum()), int((clean & ~by_attack).sum())
    only_noise = int((clean & ~by_noise & by_attack).sum())
    only_attack = int((clean & ~by_attack & by_noise).sum())
    if right < FEW:
        outcome = OPEN
    elif _sign_test(only_noise, only_attack) < CHANCE:
        outcome = FAILED
    else:
        stronger = attack > 2 * noise and _sign_test(only_attack, only_noise) < CHANCE
        outcome = PASSED if attack == right or stronger else OPEN
    return Check(
        "random noise",
        outcome,
        f"at {budget} random noise breaks {noise} of {right} pictures, the attack {attack}",
        {"n": right, "noise": noise, "attack": attack, "only_noise": only_noise, "only_attack": only_attack},
    )


def _sign_test(more: int, fewer: int) -> float:
    """One-sided: how likely at least ``more`` of so many coins come up heads."""
    total = more + fewer
    return sum(math.comb(total, k) for k in range(more, total + 1)) / 2**total if total else 1.0


def _holm(chances: Sequence[float]) -> list[float]:
    """Each probability as one of so many (Holm, 1979)."""
    adjusted, so_far = [0.0] * len(chances), 0.0
    for rank, index in enumerate(sorted(range(len(chances)), key=lambda each: chances[each])):
        so_far = max(so_far, min(1.0, (len(chances) - rank) * chances[index]))
        adjusted[index] = so_far
    return adjusted
