"""The gate: whether attacks that were found on a twin say something of the engine.

An engine with integer kernels rounds elsewhere than its twin does. Where the two often disagree on plain pictures, an
attack that fails on the engine may have failed for want of a good twin, which is no robustness.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from exporters.parity import Parity, parity_from_logits

FLOAT_AGREEMENT = 0.99
QUANTISED_AGREEMENT = 0.97


@dataclass(frozen=True)
class Gate:
    """A twin beside its engine.

    Args:
        parity: the engine's answers against the twin's; the reference is the engine.
        threshold: the least share of equal top classes with which the twin may speak for the engine.
    """

    parity: Parity
    threshold: float

    @property
    def speaks(self) -> bool:
        """Whether transfer results speak for the engine."""
        return self.parity.agreement >= self.threshold

    @property
    def reason(self) -> str:
        """The verdict in words, with both numbers."""
        found = self.parity
        measured = (
            f"twin and engine name the same class for {found.agreeing} of {found.n} pictures ({found.agreement:.1%}, "
            f"needed {self.threshold:.0%}); their logits differ by {found.mean_error:.2g} on average and "
            f"{found.max_error:.2g} at most, beside a spread of {found.spread:.2g}"
        )
        return measured if self.speaks else f"transfer results do not speak for the engine: {measured}"

    def describe(self) -> dict[str, Any]:
        """The verdict as JSON."""
        return {
            "speaks": self.speaks,
            "threshold": self.threshold,
            "agreement": self.parity.agreement,
            "reason": self.reason,
            **self.parity.describe(),
        }


def gate_from_logits(engine: npt.NDArray[Any], twin: npt.NDArray[Any], quantised: bool) -> Gate:
    """Compare a twin with its engine on real pictures.

    Args:
        engine, twin: logits [n, classes] of the same pictures, in the same order; of both the logarithms where they
            are probabilities.
        quantised: whether the twin is that of a file with integers, of which less is asked.

    Raises:
        ExportError: nothing to compare, other shapes, or values that are not finite.
    """
    threshold = QUANTISED_AGREEMENT if quantised else FLOAT_AGREEMENT
    return Gate(parity_from_logits(np.asarray(engine), np.asarray(twin)), threshold)
