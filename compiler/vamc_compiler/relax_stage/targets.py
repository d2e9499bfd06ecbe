"""CPU targets: which LLVM CPU to compile for, and which features a machine then needs."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm.target import codegen

from vamc_runtime.errors import UserError, nearest_name
from vamc_runtime.machine import cpu_features

# LLVM's feature names (left) and those of /proc/cpuinfo (right), for the features that code generation may use.
_FEATURES = {
    "sse4.2": "sse4_2",
    "popcnt": "popcnt",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "movbe": "movbe",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "avxvnni": "avx_vnni",
    "gfni": "gfni",
    "vaes": "vaes",
    "vpclmulqdq": "vpclmulqdq",
    "amx-tile": "amx_tile",
    "amx-int8": "amx_int8",
    "amx-bf16": "amx_bf16",
}
LOWEST = "x86-64-v3"
FALLBACKS = ("x86-64-v4", LOWEST)


@dataclass(frozen=True)
class CpuTarget:
    """One CPU to compile for."""

    mcpu: str
    requires: tuple[str, ...]
    """Features in the words of /proc/cpuinfo, sorted."""

    def tvm_target(self) -> Any:
        """TVM's target; the thread count is the runtime's business, not the code's."""
        return tvm.target.Target({"kind": "llvm", "mcpu": self.mcpu, "num-cores": 1})


def _describe(mcpu: str) -> CpuTarget:
    target = tvm.target.Target({"kind": "llvm", "mcpu": mcpu})
    names = set(map(str, codegen.llvm_get_cpu_features(target)))
    return CpuTarget(mcpu, tuple(sorted(flag for name, flag in _FEATURES.items() if name in names)))


def host_target() -> CpuTarget:
    """This machine's CPU, or a generic level when a virtual machine hides features that LLVM would assume."""
    present = cpu_features()
    for mcpu in (str(codegen.llvm_get_system_cpu()), *FALLBACKS):
        target = _describe(mcpu)
        if {"avx2", "fma", "f16c"} <= set(target.requires) and set(target.requires) <= present:
            return target
    raise UserError(
        f"this machine's CPU ({platform.processor() or platform.machine()}) is below {LOWEST}",
        expected=f"a CPU with the features of {LOWEST} (AVX2, FMA, F16C)",
        fix="compile on another machine, or for another CPU: set backend.target.mcpu",
    )


def resolve_targets(mcpus: tuple[str, ...]) -> list[CpuTarget]:
    """The targets of `backend.target.mcpu`; this host when none is named.

    Raises:
        UserError: LLVM does not know the name, or the CPU is below the lowest level that the kernels need.
    """
    if not mcpus:
        return [host_target()]
    known = sorted(map(str, codegen.llvm_get_cpu_archlist(tvm.target.Target({"kind": "llvm"}))))
    lowest = set(_describe(LOWEST).requires)
    targets = []
    for mcpu in mcpus:
        if mcpu not in known:
            near = nearest_name(mcpu, known)
            raise UserError(
                f"backend.target.mcpu names {mcpu!r}, which LLVM does not know",
                expected="an LLVM CPU name such as x86-64-v3, x86-64-v4, znver4, sapphirerapids",
                fix=f"did you mean {near!r}?" if near else "see `llc -mcpu=help` or gcc's -march list",
            )
        target = _describe(mcpu)
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
