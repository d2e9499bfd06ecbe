"""CPU targets: which LLVM CPU to compile for, and which features a machine then needs."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm.target import codegen

from vamc_compiler.relax_stage.amx import amx_works
from vamc_compiler.relax_stage.llvm_features import SWITCHED_OFF, requirements, unnamed
from vamc_runtime.errors import UserError, nearest_name
from vamc_runtime.machine import AMX_TILE, cpu_features

LOWEST = "x86-64-v3"
FALLBACKS = ("x86-64-v4", LOWEST)
AMX = ("amx-tile", "amx-int8", "amx-bf16")
"""LLVM's names of what the kernels use of the tile unit."""


@dataclass(frozen=True)
class CpuTarget:
    """One CPU to compile for."""

    mcpu: str
    requires: tuple[str, ...]
    """Features in the words of /proc/cpuinfo, sorted."""
    without: tuple[str, ...] = ()
    """Features of that CPU, in LLVM's words, that code generation must not use; sorted."""

    def tvm_target(self) -> Any:
        """TVM's target; the thread count is the runtime's business, not the code's."""
        return _tvm_target(self.mcpu, self.without)


def _tvm_target(mcpu: str, without: Iterable[str]) -> Any:
    switched_off = {"mattr": [f"-{name}" for name in without]}
    return tvm.target.Target(
        {"kind": "llvm", "mcpu": mcpu, "num-cores": 1} | (switched_off if switched_off["mattr"] else {})
    )


def _features(mcpu: str, without: Iterable[str] = ()) -> set[str]:
    """LLVM's features of a CPU."""
    return set(map(str, codegen.llvm_get_cpu_features(_tvm_target(mcpu, without))))


def describe_target(mcpu: str, *, amx: bool = True) -> CpuTarget:
    """What to compile for a CPU that LLVM knows.

    Args:
        mcpu: its name.
        amx: False leaves the tile unit of a CPU that has one alone.

    Raises:
        UserError: LLVM may use a feature that vamc does not know how to check.
    """
    unwanted = SWITCHED_OFF if amx else SWITCHED_OFF.union(AMX)
    without = tuple(sorted(unwanted & _features(mcpu)))
    features = _features(mcpu, without)
    unknown = unnamed(features) + sorted(features & SWITCHED_OFF)
    if unknown:
        raise UserError(
            f"for {mcpu} LLVM may use {', '.join(unknown)}, which vamc does not know",
            expected="features that a machine can be asked for before it runs the library",
            fix="set backend.target.mcpu to an older CPU of the same family, or to x86-64-v4 or x86-64-v3",
        )
    return CpuTarget(mcpu, requirements(features), without)


def host_target() -> CpuTarget:
    """This machine's CPU, or a generic level when a virtual machine hides features that LLVM would assume.

    The tile unit (AMX) is left alone where it is hidden, or does not compute what it should.
    """
    present = cpu_features()
    amx = AMX_TILE in present and amx_works()
    lacking: list[str] = []
    for mcpu in (str(codegen.llvm_get_system_cpu()), *FALLBACKS):
        try:
            target = describe_target(mcpu, amx=amx)
        except UserError:  # a CPU newer than this table: a generic level serves
            continue
        lacking = sorted(set(target.requires) - present)
        if not lacking and {"avx2", "fma", "f16c"} <= set(target.requires):
            return target
    raise UserError(
        f"this machine's CPU ({platform.processor() or platform.machine()}) is below {LOWEST}: it lacks "
        f"{', '.join(lacking)}",
        expected=f"a CPU with the features of {LOWEST} (AVX2, FMA, F16C)",
        fix="compile on another machine, or for another CPU: set backend.target.mcpu",
    )


def resolve_targets(mcpus: tuple[str, ...]) -> list[CpuTarget]:
    """The targets of `backend.target.mcpu`; this host when none is named.

    Raises:
        UserError: LLVM does not know the name, the CPU is below the lowest level that the kernels need, or LLVM may use
            a feature of it that no machine can be asked for.
    """
    if not mcpus:
        return [host_target()]
    known = sorted(map(str, codegen.llvm_get_cpu_archlist(tvm.target.Target({"kind": "llvm"}))))
    lowest = set(describe_target(LOWEST).requires)
    targets = []
    for mcpu in mcpus:
        if mcpu not in known:
            near = nearest_name(mcpu, known)
            raise UserError(
                f"backend.target.mcpu names {mcpu!r}, which LLVM does not know",
                expected="an LLVM CPU name such as x86-64-v3, x86-64-v4, znver4, sapphirerapids",
                fix=f"did you mean {near!r}?" if near else "see `llc -mcpu=help` or gcc's -march list",
            )
        target = describe_target(mcpu)
        missing = sorted(lowest - set(target.requires))
        if missing:
            raise UserError(
                f"backend.target.mcpu names {mcpu!r}, which lacks {', '.join(missing)}",
                expected=f"{LOWEST} or above",
                fix=f"use {LOWEST}",
            )
        targets.append(target)
    return targets


def runtime_library() -> Path:
    """`libtvm_runtime.so` of the installed TVM: the VM that the libraries are built against."""
    from tvm import libinfo

    return Path(libinfo.find_libtvm_runtime())
