"""Memory that compiled code may touch: 64-byte aligned, handed over without a copy.

Compiled code loads whole vectors at aligned addresses; a tensor at any other address is a segmentation fault, and
`from_dlpack` does not look unless told to.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_runtime.ffi import tvm_ffi

ALIGNMENT_BYTES = 64
HUGE_PAGE_BYTES = 2 << 20


def aligned_empty(num_bytes: int) -> npt.NDArray[np.uint8]:
    """Uninitialised aligned bytes."""
    buffer = np.empty(num_bytes + ALIGNMENT_BYTES, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT_BYTES
    return buffer[start : start + num_bytes]


def zero_pages(num_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeros straight from the operating system: a page costs memory only once it is written."""
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # of a shared mapping, the default, reading takes memory too
    return np.frombuffer(mmap.mmap(-1, max(num_bytes, 1), flags=private), np.uint8)[:num_bytes]


def huge_pages(num_bytes: int) -> npt.NDArray[np.uint8]:
    """Like `zero_pages`, at a multiple of 2 MiB, of pages of that size where the system gives them."""
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    whole = -(-max(num_bytes, 1) // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    mapped = mmap.mmap(-1, whole + HUGE_PAGE_BYTES, flags=private)
    with contextlib.suppress(OSError):  # a kernel without them
        mapped.madvise(mmap.MADV_HUGEPAGE)
    buffer = np.frombuffer(mapped, np.uint8)
    start = -buffer.ctypes.data % HUGE_PAGE_BYTES
    return buffer[start : start + num_bytes]


def as_tensor(array: npt.NDArray[Any]) -> Any:
    """A tvm_ffi tensor over the array's own memory."""
    return tvm_ffi().from_dlpack(array, require_alignment=ALIGNMENT_BYTES)


class Staging:
    """Reusable aligned memory for the int32 arguments of a step, so that a step allocates nothing."""

    def __init__(self) -> None:
        self._buffers: dict[str, npt.NDArray[np.uint8]] = {}

    def put(self, name: str, values: npt.NDArray[np.int32]) -> Any:
        """Copy `values` into the buffer of `name`; a tensor over it, valid until the next `put` of that name."""
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < values.nbytes:
            buffer = aligned_empty(max(4096, 2 * values.nbytes))
            self._buffers[name] = buffer
        view = buffer[: values.nbytes].view(np.int32).reshape(values.shape)
        view[...] = values
        return as_tensor(view)
