"""Adversarial noise: pictures that were changed, within a budget, so that a model errs.

An engine has no gradients. So there are two kinds of attacks, in one table: those of `gradient/` climb a loss on a
differentiable twin of the engine, and what they make is handed on; those of `query/` ask the engine itself and need
nothing but its answers. A new attack is one new file and one row.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ATTACKS", "DECISION", "GRADIENT", "SCORES", "Entry"]

# What an attack needs of the model that it attacks: gradients, scores of all classes, or the top class alone.
GRADIENT, SCORES, DECISION = "gradient", "scores", "decision"


class Entry(NamedTuple):
    """One row.

    Args:
        target: a factory, ``module:attribute``: (budget, keyword parameters) -> `noise.adversarial.base.Attack`.
        about: what it does, and whose it is.
        needs: of the model, `GRADIENT`, `SCORES` or `DECISION`.
        norms: those of `noise.adversarial.base.NORMS` in which it can be bounded.
        extra: the extra of qharness that it needs beyond the base.
    """

    target: str
    about: str
    needs: str
    norms: tuple[str, ...]
    extra: str | None = None


# name -> a factory
ATTACKS: dict[str, Entry] = {
    "fgsm": Entry(
        "noise.adversarial.gradient.fgsm:fgsm",
        "one step along the gradient (Goodfellow et al. 2015)",
        GRADIENT,
        ("linf", "l2", "l1"),
        "torch",
    ),
    "pgd": Entry(
        "noise.adversarial.gradient.pgd:pgd",
        "projected gradient descent from a random start (Madry et al. 2018)",
        GRADIENT,
        ("linf", "l2", "l1"),
        "torch",
    ),
    "mi-fgsm": Entry(
        "noise.adversarial.gradient.mi_fgsm:mi_fgsm",
        "gradients with momentum, which transfer better (Dong et al. 2018)",
        GRADIENT,
        ("linf", "l2", "l1"),
        "torch",
    ),
    "apgd-ce": Entry(
        "noise.adversarial.gradient.apgd:apgd_ce",
        "Auto-PGD, which finds its step sizes, on cross-entropy (Croce & Hein 2020)",
        GRADIENT,
        ("linf", "l2", "l1"),
        "torch",
    ),
    "apgd-dlr": Entry(
        "noise.adversarial.gradient.apgd:apgd_dlr",
        "Auto-PGD on the difference of logits ratio, which no scale of logits hides from",
        GRADIENT,
        ("linf", "l2", "l1"),
        "torch",
    ),
    "apgd-t": Entry(
        "noise.adversarial.gradient.apgd:apgd_t",
        "Auto-PGD towards one class after the other",
        GRADIENT,
        ("linf", "l2", "l1"),
        "torch",
    ),
    "fab-t": Entry(
        "noise.adversarial.gradient.fab:fab_t",
        "the nearest misread picture, by steps onto the boundary (Croce & Hein 2020)",
        GRADIENT,
        ("linf", "l2", "l1"),
        "torch",
    ),
    # Attacks on the engine itself.
    "square": Entry(
        "noise.adversarial.query.square:square",
        "random search over square patches (Andriushchenko et al. 2020, as in AutoAttack)",
        SCORES,
        ("linf", "l2"),
    ),
    "spsa": Entry(
        "noise.adversarial.query.spsa:spsa",
        "descent along gradients estimated from pairs of answers (Uesato et al. 2018)",
        SCORES,
        ("linf",),
    ),
    "rays": Entry(
        "noise.adversarial.query.rays:rays",
        "the nearest misread picture along directions of signs (Chen and Gu 2020)",
        DECISION,
        ("linf",),
    ),
    "random-noise": Entry(
        "noise.adversarial.query.random_noise:random_noise",
        "noise of the same norm without a direction: the control",
        DECISION,
        ("linf", "l2", "l1"),
    ),
}
