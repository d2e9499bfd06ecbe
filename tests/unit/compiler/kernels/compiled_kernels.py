"""Kernels compiled on their own, as functions of a Relax module, through the pipeline that models take."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax, tirx

from vamc_compiler.relax_stage.pipeline import build, run_passes
from vamc_compiler.relax_stage.targets import host_target, resolve_targets

Array = npt.NDArray[Any]
Result = TypeVar("Result")
TARGETS = ("host", "x86-64-v3")

# Input shapes and types (a string is a symbolic size), and what puts the kernel into the module.
Kernel = tuple[Sequence[tuple[Sequence[int | str], str]], Callable[..., Any]]


def compile_kernels(kernels: Mapping[str, Kernel], target: str) -> Any:
    """A virtual machine with one function per kernel."""
    builder = relax.BlockBuilder()
    for name, (inputs, emit) in kernels.items():
        symbols: dict[str, Any] = {}
        for size in (size for shape, _ in inputs for size in shape if isinstance(size, str)):
            symbols.setdefault(size, tirx.Var(size, "int64"))
        arguments = [
            relax.Var(f"x{i}", relax.TensorType([symbols.get(s, s) for s in shape], dtype))
            for i, (shape, dtype) in enumerate(inputs)
        ]
        with builder.function(name, arguments):
            with builder.dataflow():
                result = builder.emit_output(emit(builder, *arguments))
            builder.emit_func_output(result)
    cpu = host_target() if target == "host" else resolve_targets((target,))[0]
    tvm_target = cpu.tvm_target()
    executable = build(run_passes(builder.get(), tvm_target), tvm_target)
    return relax.VirtualMachine(executable, tvm.cpu())


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
