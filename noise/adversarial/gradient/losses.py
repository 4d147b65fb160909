"""Losses that attacks raise: (logits [n, classes], labels [n], targets [n]) -> [n]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from noise.base import NoiseError

TINY = 1e-12


def cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Minus the log probability of the true class. Its gradient vanishes where the model is sure."""
    return functional.cross_entropy(logits, labels, reduction="none")


def dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The difference of logits ratio of Croce & Hein 2020, equation 6.

    It does not change with the scale of logits, so that a model does not hide behind a large one.

    Raises:
        NoiseError: fewer than 3 classes, for which it is not defined.
    """
    _check_classes("DLR", logits, 3)
    highest = logits.topk(3, dim=1)
    true = logits.gather(1, labels[:, None])[:, 0]
    first, second, third = highest.values.unbind(1)
    other = torch.where(highest.indices[:, 0] == labels, second, first)
    return (other - true) / (first - third + TINY)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Equation 7: towards one class.

    Raises:
        NoiseError: fewer than 4 classes, for which it is not defined.
    """
    _check_classes("targeted DLR", logits, 4)
    first, _, third, fourth = logits.topk(4, dim=1).values.unbind(1)
    true, wanted = (logits.gather(1, classes[:, None])[:, 0] for classes in (labels, targets))
    return (wanted - true) / (first - (third + fourth) / 2 + TINY)


def _check_classes(what: str, logits: Tensor, least: int) -> None:
    if logits.shape[1] < least:
        raise NoiseError(
            f"{what} compares the {least} highest logits, and the model has {logits.shape[1]} classes; take apgd-ce"
        )
