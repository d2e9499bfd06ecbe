"""Kernels compiled on their own, called with arrays that have a guard on either side."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
import tvm

from vamc_compiler.kernels.instruction_set import InstructionSet
from vamc_compiler.kernels.table import KernelTable
from vamc_compiler.kernels.tir import Kernel
from vamc_compiler.relax_stage.targets import CpuTarget, resolve_targets
from vamc_runtime.machine import cpu_features

Array = npt.NDArray[Any]
Result = TypeVar("Result")
Output = tuple[tuple[int, ...], Any]
"""Shape and numpy type."""

TARGETS = ("host", "x86-64-v3")
LEVELS = ("x86-64-v3", "x86-64-v4", "znver4")
"""AVX2; AVX-512; AVX-512 with VNNI and bfloat16: every set of instructions that the table tells apart, but AMX."""
PASS_CONFIG = {"tirx.disable_storage_rewrite": True}
"""As in `relax_stage.pipeline.build`, which says why."""
GUARD_BYTES = 256
GUARD = 0xFF
"""As floats of any width a NaN: reading one element too many shows in the result."""


@functools.cache
def _target(mcpu: str) -> CpuTarget:
    return resolve_targets(() if mcpu == "host" else (mcpu,))[0]


def require(mcpu: str) -> CpuTarget:
    """The target; skips the test where this machine cannot run it."""
    target = _target(mcpu)
    missing = sorted(set(target.requires) - cpu_features())
    if missing:
        pytest.skip(f"this CPU is not a {mcpu}: it lacks {', '.join(missing)}")
    return target


def table(mcpu: str, **options: Any) -> KernelTable:
    """The kernels that a build for this CPU uses."""
    return KernelTable(InstructionSet.of(require(mcpu).requires), **options)


@functools.cache
def compile_kernel(kernel: Kernel, mcpu: str) -> Any:
    """The function; the cache keeps its code in memory as long as the process lives."""
    module = tvm.IRModule({kernel.name: kernel.function.with_attr("global_symbol", kernel.name)})
    with tvm.transform.PassContext(opt_level=3, config=PASS_CONFIG):
        return tvm.compile(module, target=require(mcpu).tvm_target())


class _Guarded:
    """An array in aligned memory of its own, surrounded by bytes that must stay."""

    def __init__(self, shape: Sequence[int], dtype: Any) -> None:
        num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._memory = np.full(num_bytes + 2 * GUARD_BYTES + 64, GUARD, np.uint8)
        begin = GUARD_BYTES + -(self._memory.ctypes.data + GUARD_BYTES) % 64
        self.array: Array = self._memory[begin : begin + num_bytes].view(dtype).reshape(shape)
        self._around = (self._memory[:begin], self._memory[begin + num_bytes :])

    @staticmethod
    def copy(array: Array) -> _Guarded:
        guarded = _Guarded(array.shape, array.dtype)
        guarded.array[...] = array
        return guarded

    def tensor(self) -> Any:
        return tvm.runtime.from_dlpack(self.array)

    def check(self, name: str) -> None:
        assert all((part == GUARD).all() for part in self._around), f"{name} was written beside its memory"


def call(
    kernel: Kernel, mcpu: str, inputs: Sequence[Array], outputs: Sequence[Output], in_place: Sequence[int] = ()
) -> list[Array]:
    """Run a kernel; its outputs, then those inputs that it updates in place.

    Checks that no other input changed and that nothing around any array was written. Outputs begin as NaN.
    """
    function = compile_kernel(kernel, mcpu)[kernel.name]
    given = [_Guarded.copy(array) for array in inputs]
    made = [_Guarded(shape, dtype) for shape, dtype in outputs]
    function(*(guarded.tensor() for guarded in [*given, *made]))
    for index, (guarded, array) in enumerate(zip(given, inputs, strict=True)):
        guarded.check(f"input {index}")
        if index not in in_place:
            assert guarded.array.tobytes() == array.tobytes(), f"input {index} changed"
    for index, guarded in enumerate(made):
        guarded.check(f"output {index}")
    return [guarded.array for guarded in made] + [given[index].array for index in in_place]


def to_device(array: Array) -> Any:
    """A copy in aligned memory."""
    return tvm.runtime.tensor(np.ascontiguousarray(array))


def with_threads(count: int, function: Callable[[], Result]) -> Result:
    """Call `function` where compiled code runs on `count` threads.

    TVM's pool belongs to the calling thread, never grows, and pins that thread to a core: a new thread for each call
    leaves this one as it is.
    """

    def call() -> Result:
        cores = [str(core) for core in sorted(os.sched_getaffinity(0))[:count]]
        tvm.get_global_func("runtime.config_threadpool")(-2, count, cores)
        assert tvm.get_global_func("runtime.NumThreads")() == count
        return function()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()
