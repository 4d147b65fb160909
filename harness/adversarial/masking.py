"""Masking: whether what looks like robustness is only an attack that was led astray.

Rounding has no gradient, and a model whose gradients say nothing survives every attack that follows them. The checks
are those of AutoAttack (Croce and Hein, 2020; `checks.py` and `flags_doc.md`) and of Carlini et al. (2019), made
between the twin, on which gradients are followed, and the engine, which is asked. Each is a result with its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

GENUINE, MASKED, UNDECIDED = "genuine", "masked", "undecided"
PASSED, FAILED, OPEN = "passed", "failed", "undecided"

# AutoAttack calls a model random where normalised logits of equal inputs differ by more (checks.py).
RANDOM_DISTANCE = 1e-4
# AutoAttack's alarm: queries that break more pictures than gradients do, in points of robust accuracy.
ALARM_POINTS = 0.2
# A picture whose loss has so small a gradient, everywhere, gives an attack no direction.
ZERO_GRADIENT = 1e-12
# A difference that comes up more often where there is none is put down to chance.
CHANCE = 0.05
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
        "randomness",
        FAILED if random else PASSED,
        f"{len(answers)} times the same {len(answers[0])} pictures: normalised logits differ by up to {distance:.1e}; "
        + ("attacks would have to average over it" if random else "the engine is deterministic"),
        {"repeats": len(answers), "n": len(answers[0]), "distance": distance, "limit": RANDOM_DISTANCE},
    )


def check_output(output_kind: str, logits: npt.NDArray[np.float64]) -> Check:
    """Whether a loss on the outputs has anything to climb: saturated probabilities have not."""
    if output_kind != "probabilities":
        return Check("outputs", PASSED, "the model gives logits", {"output_kind": output_kind})
    saturated = int((np.exp(logits).max(axis=1) >= 1 - np.finfo(np.float32).eps).sum())
    share = saturated / len(logits)
    return Check(
        "outputs",
        OPEN if share > 0.5 else PASSED,
        f"the model gives probabilities, of which logarithms are taken; {saturated} of {len(logits)} are exactly 1, "
        "where a loss is flat",
        {"output_kind": output_kind, "saturated": saturated, "n": len(logits)},
    )


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


def check_queries(budget: str, by_gradient: Correct, by_queries: Correct) -> Check:
    """Whether asking breaks pictures that following gradients left standing.

    Args:
        budget: of both.
        by_gradient: [n], pictures that the engine reads right under every transferred set.
        by_queries: [n], under every set that was made by asking it.
    """
    n = len(by_gradient)
    left, asked = int(by_gradient.sum()), int(by_queries.sum())
    only = int((by_gradient & ~by_queries).sum())
    points = 100 * (left - asked) / n if n else 0.0
    if points <= ALARM_POINTS:
        outcome = PASSED
    else:
        # One picture of a hundred is a point: it takes five, net, for chance to be out of the question (sign test).
        other = int((by_queries & ~by_gradient).sum())
        outcome = FAILED if _sign_test(only, other) < CHANCE else OPEN
    return Check(
        f"queries against gradients, {budget}",
        outcome,
        f"{left} of {n} pictures stand against gradients, {asked} against queries ({points:+.1f} points)",
        {"n": n, "gradients": left, "queries": asked, "only_by_queries": only, "limit_points": ALARM_POINTS},
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
