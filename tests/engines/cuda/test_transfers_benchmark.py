"""The benchmark of transfers, on the double: its rates mean nothing, but every row is there and all is given back."""

from __future__ import annotations

import numpy as np

from benchmarks.transfers import SIZES, rows_of
from tests.engines.cuda.lazy import LazyCuda


def test_every_size_and_direction_is_a_row() -> None:
    cuda = LazyCuda(np.random.default_rng(0), total=1 << 30)
    rows = rows_of(cuda)
    assert [(row["bytes"], row["direction"]) for row in rows] == [
        (size, direction) for size in SIZES.values() for direction in ("in", "out")
    ]
    assert all(float(row[f"{kind} GB/s"]) > 0 for row in rows for kind in ("pageable", "registered", "locked"))
    assert cuda.idle()
