"""What the machine does at best: functions of the compiled library, on the ranks' own threads and weight pages.

The functions are described in `vamc_compiler.kernels.roof`.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_runtime.arrays import as_tensor, zero_pages
from vamc_runtime.bench.costs import is_embedding
from vamc_runtime.errors import UserError
from vamc_runtime.executor import RankExecutor

STREAM_READ = "vamc_stream_read"
PEAK_PREFIX = "vamc_peak_"
PEAKS = ("fp32", "bf16", "int8")
PEAK_SECONDS = 0.02
"""How long one measurement of a peak takes, about."""
_LINE_BYTES, _BLOCK_BYTES, _NUM_SUMS = 64, 1 << 18, 256
MAX_GAP_BYTES = 4096
"""Weights as near as this are read as one span, with what lies between (pads)."""
_FIRST_TRY = 10_000


def library_function(executor: RankExecutor, name: str) -> Any:
    """A function of the compiled library beside `step`.

    Raises:
        UserError: the runstream was compiled before there was one.
    """
    if not executor.library.implements_function(name, True):
        raise UserError(
            f"the libraries of {executor.runstream.path} have no function {name}",
            expected="a runstream compiled with this version, whose libraries can measure the machine",
            fix="compile the runstream again",
        )
    return executor.library.get_function(name, True)


def merge_spans(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Address ranges [begin, end) in order, neighbours put together."""
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if merged and begin - merged[-1][1] <= MAX_GAP_BYTES:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _bytes_at(begin: int, end: int) -> npt.NDArray[np.uint8]:
    """Memory that the executor holds, as whole cache lines."""
    num_bytes = (end - begin) // _LINE_BYTES * _LINE_BYTES
    return np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(begin))


@dataclass(frozen=True, kw_only=True)
class StreamTimes:
    """One reading of what a step reads."""

    weight_bytes: int
    weight_seconds: float
    kv_bytes: int
    kv_seconds: float


@dataclass(frozen=True)
class ReadOnce:
    """A task for every rank: read all weights but the embedding, and the first pages of the cache, once each."""

    num_pages: int
    """Pages of every layer."""

    def __call__(self, executor: RankExecutor) -> StreamTimes:
        """See the class."""
        read = library_function(executor, STREAM_READ)
        names = [name for name in executor.runstream.manifest.parameters if not is_embedding(name)]
        arrays = [executor.weights[name] for name in names]
        spans = merge_spans((array.ctypes.data, array.ctypes.data + array.nbytes) for array in arrays)
        weights = [_bytes_at(*span) for span in spans]
        cache = [pages[: self.num_pages].reshape(-1).view(np.uint8) for pages in executor.kv_cache]
        with executor.on_own_core():
            weight_seconds = read_seconds(read, weights)
            kv_seconds = read_seconds(read, cache) if self.num_pages else 0.0
        return StreamTimes(
            weight_bytes=sum(map(len, weights)),
            weight_seconds=weight_seconds,
            kv_bytes=sum(map(len, cache)),
            kv_seconds=kv_seconds,
        )


def read_seconds(read: Any, parts: Sequence[npt.NDArray[np.uint8]]) -> float:
    """Seconds to read all of it.

    Args:
        read: `vamc_stream_read` of a library.
        parts: memory at multiples of 64 bytes, whole cache lines each.
    """
    blocks = [-(-len(part) // _BLOCK_BYTES) for part in parts]
    sums = zero_pages(max(blocks) * _LINE_BYTES).view(np.int32).reshape(-1, 16)
    calls = [(as_tensor(part), as_tensor(sums[:count])) for part, count in zip(parts, blocks, strict=True) if count]
    begun = time.perf_counter()
    for data, out in calls:
        read(data, out)
    return time.perf_counter() - begun


def peaks(executor: RankExecutor) -> dict[str, float]:
    """A task for every rank: multiply-adds per second in registers, over the rank's threads, by type.

    Types that the CPU has no instruction for are absent.
    """
    library_function(executor, PEAK_PREFIX + PEAKS[0])
    found = [name for name in PEAKS if executor.library.implements_function(PEAK_PREFIX + name, True)]
    return {name: _peak(executor, library_function(executor, PEAK_PREFIX + name)) for name in found}


def _peak(executor: RankExecutor, function: Any) -> float:
    with executor.on_own_core():
        return peak_of(function, len(executor.place.cores))


def peak_of(function: Any, num_threads: int) -> float:
    """Multiply-adds per second of a library's `vamc_peak_<type>`, over all threads of the calling thread's pool."""
    # About 0.5 and 1 as float32, as pairs of bfloat16 too, and harmless as bytes.
    operands = zero_pages(2 * _LINE_BYTES).view(np.int32).reshape(2, 16)
    operands[0], operands[1] = 0x3F003F00, 0x3F803F80
    sums = zero_pages(num_threads * _NUM_SUMS * 4).view(np.int32).reshape(num_threads, _NUM_SUMS)
    arguments = as_tensor(operands), as_tensor(sums)

    def run(iterations: int) -> tuple[int, float]:
        sums[...] = 1  # zeros would stay zeros where a product is one of sums
        begun = time.perf_counter()
        multiply_adds: int = function(arguments[0], iterations, arguments[1])
        return multiply_adds * num_threads, time.perf_counter() - begun

    run(_FIRST_TRY)  # wakes the threads
    seconds = run(_FIRST_TRY)[1]
    multiply_adds, seconds = run(max(_FIRST_TRY, int(_FIRST_TRY * PEAK_SECONDS / seconds)))
    return multiply_adds / seconds
