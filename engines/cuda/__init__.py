"""CUDA: moving batches to an NVIDIA GPU and answers back, while it computes.

`engines.cuda.transfers` is the seam between this project and CUDA, a few functions wide; `engines.cuda.ring` builds the
overlap on it, and `engines.cuda.engine` an engine on that. A back-end is one new file and one row here.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["TRANSFERS", "Entry"]


class Entry(NamedTuple):
    """One row: a function that makes an `engines.cuda.transfers.Transfers`, what it is, and the extra that it needs."""

    target: str
    about: str
    extra: str


# In the order of preference: the first that is installed is taken where nobody asks for another.
TRANSFERS = {
    "cuda-bindings": Entry("engines.cuda.bindings:open_bindings", "NVIDIA's own bindings of the CUDA runtime", "cuda"),
    "pycuda": Entry("engines.cuda.pycuda:open_pycuda", "PyCUDA, compiled against the CUDA of this machine", "pycuda"),
}
