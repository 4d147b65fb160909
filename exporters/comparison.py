"""Comparison: parity of a network with its exported file, and the verdict that a file needs to be written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.artifact import Artifact
from exporters.base import ExportError
from exporters.parity import Parity

# Errors are judged by how much the logits change from input to input, 1e-14 for one network and 10 for another; what
# is the same for all inputs counts for nothing, else one large bias would buy any error. Both sides compute in float32
# and add in another order.
MOST_ERROR, MOST_MEAN_ERROR = 1e-3, 1e-4


@dataclass(frozen=True)
class Pictures:
    """What a file is compared on.

    Args:
        levels: uint8 [n, size, size, 3], RGB, as they are before normalisation; n is at least 1.
        source: where they are from.
        fingerprint: over their names and contents.
        unreadable: names of those that were to be compared on too, and cannot be read.
    """

    levels: npt.NDArray[np.uint8]
    source: str
    fingerprint: str
    unreadable: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Which pictures these are, as JSON."""
        known = {"source": self.source, "fingerprint": self.fingerprint, "n": len(self.levels)}
        return known | {"unreadable": list(self.unreadable)}


@dataclass(frozen=True)
class Comparison:
    """Parity of the network with the file, on inputs of one kind.

    Args:
        inputs: "pictures", or "random" levels.
        batch: how many are given at once, every time; too few inputs are repeated.
        parity: what was found, of all that were given.
    """

    inputs: str
    batch: int
    parity: Parity

    @property
    def passed(self) -> bool:
        """Whether the answers are the same but for rounding, which may choose between two classes that are level."""
        found = self.parity
        return (
            max(found.max_error, found.lost_margin) <= MOST_ERROR * found.deviation
            and found.mean_error <= MOST_MEAN_ERROR * found.deviation
        )

    def describe(self) -> dict[str, Any]:
        """The comparison as JSON."""
        return {"inputs": self.inputs, "batch": self.batch, "passed": self.passed, **self.parity.describe()}


@dataclass(frozen=True)
class Exported:
    """What an export made.

    Args:
        artifact: the file and its sidecar.
        comparisons: of the file with the network, all passed.
        notes: what the user should know, a sentence each.
    """

    artifact: Artifact
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]


class ParityFailed(ExportError):
    """The file does not give the network's answers; the comparisons say how far off it is."""

    def __init__(self, comparisons: Sequence[Comparison], path: Path, notes: Sequence[str] = ()) -> None:
        failed = [each for each in comparisons if not each.passed]
        worst = max(failed, key=lambda each: each.parity.max_error)
        found = worst.parity
        super().__init__(
            f"{len(failed)} of {len(comparisons)} comparisons failed: the exported file does not give the network's "
            f"answers. On {worst.inputs} in batches of {worst.batch} the logits differ by up to {found.max_error:.3g} "
            f"(mean {found.mean_error:.3g}, deviation {found.deviation:.3g}), and {found.agreeing} of {found.n} have "
            f"the same top class. {path} was not written. "
            f"{''.join(f'For one thing, {note}. ' for note in notes)}Try the other exporter with --exporter"
        )
        self.comparisons = tuple(comparisons)


def described(comparisons: Sequence[Comparison], pictures: Pictures, seed: int) -> dict[str, Any]:
    """The comparisons, their limits and their inputs as JSON, for the sidecar; the seed is of the random levels."""
    limits = {"max_error": MOST_ERROR, "lost_margin": MOST_ERROR, "mean_error": MOST_MEAN_ERROR, "unit": "deviation"}
    inputs = {"pictures": pictures.describe(), "random": {"seed": seed}}
    return {"limits": limits, **inputs, "comparisons": [each.describe() for each in comparisons]}
