"""Parity: whether two forms of one network say the same of the same inputs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from exporters.base import ExportError


@dataclass(frozen=True)
class Parity:
    """How far the logits of one form are from those of the other.

    Args:
        n: inputs compared.
        agreeing: of these, how many have the same top class in both.
        max_error: the greatest absolute difference of a logit.
        mean_error: the mean absolute difference.
        spread: the standard deviation of the reference's logits, to judge the errors by.
    """

    n: int
    agreeing: int
    max_error: float
    mean_error: float
    spread: float

    @property
    def agreement(self) -> float:
        """The share, 0 to 1, of inputs with the same top class."""
        return self.agreeing / self.n

    def describe(self) -> dict[str, Any]:
        """The comparison as JSON."""
        return asdict(self)


def parity_from_logits(reference: npt.NDArray[Any], other: npt.NDArray[Any]) -> Parity:
    """Compare what two forms say.

    Args:
        reference, other: [n, classes]; row by row of the same inputs.

    Raises:
        ExportError: nothing to compare, other shapes, or values that are not finite.
    """
    if reference.shape != other.shape or reference.ndim != 2 or not len(reference):
        raise ExportError(
            f"parity needs logits [n, classes] of the same inputs; got {list(reference.shape)} and {list(other.shape)}"
        )
    for what, values in (("reference", reference), ("other form", other)):
        if not np.isfinite(values).all():
            raise ExportError(f"the logits of the {what} are not all finite numbers")
    errors = np.abs(reference.astype(np.float64) - other.astype(np.float64))
    agreeing = int((reference.argmax(axis=1) == other.argmax(axis=1)).sum())
    return Parity(len(reference), agreeing, float(errors.max()), float(errors.mean()), float(reference.std()))
