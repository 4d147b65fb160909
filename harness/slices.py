"""Slices: a run is cut into fixed stretches of its pictures, each of which becomes one part of the store per engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.samples import Sample

MOST_PICTURES = 64  # so that 50,000 pictures make few files
MOST_ROWS = 2_000  # of one version, so that little is lost with a killed run, and a slow engine's turn ends


@dataclass(frozen=True)
class Slice:
    """The pictures of one part of the store.

    Args:
        index: of the part.
        start: how many pictures come before.
        samples: the pictures.
    """

    index: int
    start: int
    samples: Sequence[Sample]

    @property
    def end(self) -> int:
        """How many pictures there are up to its last one."""
        return self.start + len(self.samples)


def pictures_per_part(pictures: int, conditions: int) -> int:
    """How many pictures the parts of a run have.

    Args:
        pictures: of the run.
        conditions: under which each is seen.
    """
    return max(4, min(MOST_PICTURES, -(-pictures // 256), MOST_ROWS // conditions))


def slices_from_samples(samples: Sequence[Sample], conditions: int) -> list[Slice]:
    """The slices of a run, each a fixed stretch of the pictures."""
    size = pictures_per_part(len(samples), conditions)
    return [Slice(start // size, start, samples[start : start + size]) for start in range(0, len(samples), size)]
