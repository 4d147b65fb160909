"""Cells: the answers of a run, as arrays that statistics work on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt

from harness.estimate import Values
from harness.plan import FP32, SIMULATED
from harness.store import Store

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cell:
    """The answers of one cell, pictures in the order of their ids.

    Args:
        sample: int64 [n], which picture; ascending.
        correct: float64 [n], 1 or 0; a picture that failed counts as 0.
        top5: float64 [n].
        prediction: int32 [n], -1 where the picture failed.
        distances: version -> float64 [n], logit distance from that version's answers; NaN where there is none.
    """

    sample: Places
    correct: Values
    top5: Values
    prediction: npt.NDArray[np.int32]
    distances: Mapping[str, Values]

    @property
    def failed(self) -> int:
        """How many pictures failed."""
        return int((self.prediction < 0).sum())

    def at(self, places: Places) -> Cell:
        """Some of the answers, by their places among all."""
        return Cell(
            self.sample[places],
            self.correct[places],
            self.top5[places],
            self.prediction[places],
            {version: distance[places] for version, distance in self.distances.items()},
        )


def cells_from_store(store: Store) -> Mapping[str, Cell]:
    """Key of a cell -> its answers. A cell of which nothing is stored yet has no pictures.

    Raises:
        HarnessError: nothing has been measured yet.
    """
    columns = store.columns(
        "select cell, dense_rank() over (order by sample) as picture, coalesce(correct, false) as correct, "
        "coalesce(top5, false) as top5, coalesce(prediction, -1) as prediction, "
        "coalesce(from_fp32, 'nan'::float) as from_fp32, coalesce(from_simulated, 'nan'::float) as from_simulated "
        "from records order by cell, picture"
    )
    names, starts = np.unique(columns["cell"], return_index=True)
    ends = [*starts[1:], len(columns["cell"])]
    cells = defaultdict(lambda: _NOTHING)
    for name, start, end in zip(names, starts, ends, strict=True):
        cells[str(name)] = Cell(
            columns["picture"][start:end],
            columns["correct"][start:end].astype(np.float64),
            columns["top5"][start:end].astype(np.float64),
            columns["prediction"][start:end].astype(np.int32),
            {
                FP32: columns["from_fp32"][start:end].astype(np.float64),
                SIMULATED: columns["from_simulated"][start:end].astype(np.float64),
            },
        )
    return cells


@dataclass(frozen=True)
class Seen:
    """Pictures that every cell has: how many, and how many of them failed in at least one."""

    pictures: int
    failed: int


def seen_by_all(cells: Sequence[Cell]) -> Seen:
    """What all cells have in common; those of an engine that is behind have less."""
    common = reduce(np.intersect1d, [cell.sample for cell in cells])
    failed = np.unique(np.concatenate([cell.sample[cell.prediction < 0] for cell in cells]))
    return Seen(len(common), len(np.intersect1d(common, failed)))


def any_failed(cells: Sequence[Cell]) -> int:
    """How many pictures failed in at least one of the cells."""
    return int(np.any([cell.prediction < 0 for cell in cells], axis=0).sum())


_NO_VALUES = np.array([], np.float64)
_NOTHING = Cell(
    np.array([], np.int64),
    _NO_VALUES,
    _NO_VALUES,
    np.array([], np.int32),
    {FP32: _NO_VALUES, SIMULATED: _NO_VALUES},
)
