"""Cells: the records of a run as arrays, one number per picture, in an order that is the same in all cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.estimate import Values
from harness.plan import FP32, SIMULATED
from harness.store import Store


@dataclass(frozen=True)
class Cell:
    """The answers of one cell, pictures in the order of their ids.

    Args:
        correct: float64 [n], 1 or 0; a picture that failed counts as 0.
        top5: float64 [n].
        prediction: int32 [n], -1 where the picture failed.
        distances: version -> float64 [n], logit distance from that version's answers; NaN where there is none.
    """

    correct: Values
    top5: Values
    prediction: npt.NDArray[np.int32]
    distances: Mapping[str, Values]

    @property
    def failed(self) -> int:
        """How many pictures failed."""
        return int((self.prediction < 0).sum())


def cells_from_store(store: Store) -> dict[str, Cell]:
    """Every cell of a run by its key.

    Raises:
        HarnessError: nothing has been measured yet.
    """
    columns = store.columns(
        "select cell, coalesce(correct, false) as correct, coalesce(top5, false) as top5, "
        "coalesce(prediction, -1) as prediction, coalesce(from_fp32, 'nan'::float) as from_fp32, "
        "coalesce(from_simulated, 'nan'::float) as from_simulated from records order by cell, sample"
    )
    names, starts = np.unique(columns["cell"], return_index=True)
    ends = [*starts[1:], len(columns["cell"])]
    return {
        str(name): Cell(
            columns["correct"][start:end].astype(np.float64),
            columns["top5"][start:end].astype(np.float64),
            columns["prediction"][start:end].astype(np.int32),
            {
                FP32: columns["from_fp32"][start:end].astype(np.float64),
                SIMULATED: columns["from_simulated"][start:end].astype(np.float64),
            },
        )
        for name, start, end in zip(names, starts, ends, strict=True)
    }


def any_failed(cells: Sequence[Cell]) -> int:
    """How many pictures failed in at least one of the cells."""
    return int(np.any([cell.prediction < 0 for cell in cells], axis=0).sum())
