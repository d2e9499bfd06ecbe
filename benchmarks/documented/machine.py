"""Compiling kernels by themselves, calling them, and timing calls in turns with what the machine can do at best."""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm

from vamc_compiler.kernels.roof import PEAK_PREFIX, STREAM_READ, roof_functions
from vamc_compiler.kernels.tir import Kernel
from vamc_compiler.relax_stage.targets import CpuTarget, host_target, resolve_targets
from vamc_runtime.arrays import aligned_empty
from vamc_runtime.bench.roof import peak_of, read_seconds
from vamc_runtime.compiled_code import SPIN_COUNT
from vamc_runtime.executor import configure_threads
from vamc_runtime.machine import available_cores, cpu_features

Array = npt.NDArray[Any]
Call = Callable[[], object]

PASS_CONFIG = {"tirx.disable_storage_rewrite": True}
"""As in `relax_stage.pipeline.build`, which says why."""


@functools.cache
def num_threads() -> int:
    """Give compiled code, called from this thread, one thread per core, as the runtime does; returns how many.

    Once: the pool stays, and reads how long its threads look for work when it is made.
    """
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", SPIN_COUNT)
    cores = available_cores()
    configure_threads(cores)
    return len(cores)


def aligned_copy(array: Array) -> Array:
    """A copy in memory that compiled code may touch."""
    copied = aligned_empty(array.nbytes).view(array.dtype).reshape(array.shape)
    copied[...] = array
    return copied


def target_of(mcpu: str) -> CpuTarget | None:
    """A target by LLVM's name, or `host`; None where this machine cannot run it."""
    target = host_target() if mcpu == "host" else resolve_targets((mcpu,))[0]
    return target if set(target.requires) <= cpu_features() else None


@dataclass(frozen=True)
class Library:
    """Kernels, and the functions that measure the machine, compiled for one target."""

    module: Any

    def kernel(self, kernel: Kernel, arguments: Sequence[Any]) -> Call:
        """A call of a kernel with tensors."""
        function = self.module[kernel.name]
        return lambda: function(*arguments)

    def peak(self, kind: str, threads: int) -> float:
        """Multiply-adds per second in registers."""
        return peak_of(self.module[PEAK_PREFIX + kind], threads)

    def read_seconds(self, parts: Sequence[Array]) -> float:
        """Seconds to read arrays once and do nothing else."""
        return read_seconds(self.module[STREAM_READ], [part.reshape(-1).view(np.uint8) for part in parts])


def compile_library(kernels: Sequence[Kernel], target: CpuTarget) -> Library:
    """Compile kernels of different names."""
    functions: Mapping[str, Any] = {
        kernel.name: kernel.function.with_attr("global_symbol", kernel.name) for kernel in kernels
    }
    assert len(functions) == len(kernels), "kernels of one library have different names"
    module = tvm.IRModule({**functions, **roof_functions(frozenset(target.requires))})
    with tvm.transform.PassContext(opt_level=3, config=PASS_CONFIG):
        return Library(tvm.compile(module, target=target.tvm_target()))


def timed(call: Call) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def in_turns(repeats: int, *measurements: Callable[[], float]) -> list[float]:
    """Take every measurement in turn, `repeats` times after one for warm-up; the median of each."""
    found: list[list[float]] = [[] for _ in measurements]
    for number in range(repeats + 1):
        for values, measurement in zip(found, measurements, strict=True):
            value = measurement()
            if number:
                values.append(value)
    return [statistics.median(values) for values in found]
