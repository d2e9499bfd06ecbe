"""Kernels compiled on their own, as functions of a Relax module, through the pipeline that models take."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax, tirx

from vamc_compiler.relax_stage.pipeline import build, run_passes
from vamc_compiler.relax_stage.targets import host_target, resolve_targets

Array = npt.NDArray[Any]
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


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let compiled code use `count` threads; TVM pins the calling one, so its cores are given back at the end."""
    cores = sorted(os.sched_getaffinity(0))
    configure = tvm.get_global_func("runtime.config_threadpool")
    configure(-2, count, [str(core) for core in cores[:count]])
    try:
        yield
    finally:
        configure(-2, 1, [str(cores[0])])
        os.sched_setaffinity(0, cores)
