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
        spread: the standard deviation of the reference's logits.
        deviation: the root mean square of the reference's logits around the mean of each class: what inputs change in
            the answer, which no constant adds to.
        lost_margin: the most by which the reference prefers its class to the other form's, over the inputs where
            these differ; 0 where they never do.
    """

    n: int
    agreeing: int
    max_error: float
    mean_error: float
    spread: float
    deviation: float
    lost_margin: float

    @property
    def agreement(self) -> float:
        """The share, 0 to 1, of inputs with the same top class."""
        return self.agreeing / self.n

    def describe(self) -> dict[str, Any]:
        """The comparison as JSON."""
        return asdict(self)


def parity_from_logits(
    reference: npt.NDArray[Any], other: npt.NDArray[Any], among: npt.NDArray[Any] | None = None
) -> Parity:
    """Compare what two forms say.

    Args:
        reference, other: [n, classes]; row by row of the same inputs.
        among: the reference's logits [m, classes] of the inputs that the deviation is taken over; ``None`` for
            ``reference``.

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
    exact = reference.astype(np.float64)
    errors = np.abs(exact - other.astype(np.float64))
    rows, first = np.arange(len(exact)), exact.argmax(axis=1)
    chosen = other.argmax(axis=1)
    inputs = exact if among is None else among.astype(np.float64)
    return Parity(
        n=len(exact),
        agreeing=int((first == chosen).sum()),
        max_error=float(errors.max()),
        mean_error=float(errors.mean()),
        spread=float(exact.std()),
        deviation=float(np.sqrt(inputs.var(axis=0).mean())),
        lost_margin=float((exact[rows, first] - exact[rows, chosen]).max()),
    )
