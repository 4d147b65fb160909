"""Memory that a picture has used is kept for the next one.

A picture needs a dozen arrays of some hundred KiB, each for a moment. By default glibc gives such memory back to
the system at once, above all in threads, and every page of the next array is a page fault: they cost more than
the arithmetic (gaussian_noise takes 1.4 ms instead of 0.5).
"""

from __future__ import annotations

import ctypes

# <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 << 20
KEPT = 256 << 20


def keep_freed_memory() -> bool:
    """Let this process keep up to 256 MiB of freed memory per thread; false where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, KEPT) and mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD))
