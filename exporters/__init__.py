"""Exporters: from a network to the file that an engine runs.

`exporters.calibration` measures ranges once; `exporters.qdq` writes them as Q/DQ nodes for one target. The table
says which function makes the INT8 file of an engine.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["INT8", "Entry"]


class Entry(NamedTuple):
    """One row: where the function is, what it makes, and the extra of qharness that it needs."""

    target: str
    about: str
    extra: str


# engine -> a function: float artifact, pictures, their identity, path -> quantised artifact
INT8 = {
    "ort-cpu": Entry("exporters.qdq:int8_for_ort_cpu", "U8S8, one weight scale per output channel", "cpu"),
}
