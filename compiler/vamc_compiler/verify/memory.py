"""Memory of a verification: weights that are dropped have to leave the process."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3  # of mallopt(3), glibc's malloc.h
_LARGE_BYTES = 4 << 20
"""About a weight of the smallest models that memory matters for."""


def return_freed_memory() -> None:
    """Have the C library give large blocks back to the system as soon as they are freed.

    glibc raises its own threshold to 32 MiB once blocks of that size come and go. Weights then lie on heaps with holes
    between them: stages that keep 64 MiB of weights held ten times as much. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
