"""What the machine can do at best: functions that every library carries so that `vamc bench` can tell shares of it.

`vamc_stream_read` reads memory and does nothing else; `vamc_peak_<type>` multiplies and adds in registers and touches
no memory. They are compiled with the target of the library beside them and run on the same threads, so a model's
figures and its limits come from one process. AMX tiles are not measured.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import tvm.script.ir_builder.tirx as ir
from tvm.script.ir_builder import IRBuilder

STREAM_READ = "vamc_stream_read"
PEAK_PREFIX = "vamc_peak_"
LINE_BYTES = 64
BLOCK_LINES = 4096
"""Cache lines that a thread reads before it takes the next block: 256 KiB, so that threads end at the same time."""
LINES_IN_FLIGHT = 8
SUMS = 256

Expr = Any
Step = Callable[[Expr, Expr, Expr], Expr]
"""(sums, a, b) to the sums after one multiply-add instruction."""


def roof_functions(requires: frozenset[str]) -> dict[str, Any]:
    """The functions for a CPU: name to PrimFunc, each with its name as global symbol.

    Args:
        requires: features in the words of /proc/cpuinfo that the code may use.

    Returns:
        `vamc_stream_read(data uint8[bytes], sums int32[blocks, 16])`: reads `data` once, each thread a contiguous
        part. `bytes` is a multiple of 64; `blocks` is bytes / 262144, rounded up.
        `vamc_peak_fp32`, `vamc_peak_int8` and, where the CPU has it, `vamc_peak_bf16`, all
        `(operands int32[2, 16], iterations int64, sums int32[tasks, 256]) -> int64`: each task multiplies and adds
        `iterations` times; the answer is the number of multiply-adds of one task. `operands` are two registers, bit
        patterns of small finite numbers; their halves serve where registers are narrower.
    """
    functions = {STREAM_READ: _stream_read()}
    functions.update((PEAK_PREFIX + peak.name, _peak(peak)) for peak in _peaks(requires))
    return functions


def _stream_read() -> Any:
    with IRBuilder() as builder, ir.prim_func(is_private=False, s_tir=True):
        ir.func_name(STREAM_READ)
        ir.func_attr({"global_symbol": STREAM_READ, "tirx.noalias": True})
        num_bytes, num_blocks = ir.int64(), ir.int64()
        data = ir.match_buffer(ir.arg("data", ir.handle()), (num_bytes,), "uint8")
        sums = ir.match_buffer(ir.arg("sums", ir.handle()), (num_blocks, 16), "int32")
        num_lines = num_bytes // LINE_BYTES
        with ir.parallel(num_blocks) as block:
            part = ir.sblock_alloc_buffer((LINES_IN_FLIGHT, 16), "int32", scope="local")

            def add(line: Expr, chain: int) -> None:
                read = ir.reinterpret("int32x16", data[ir.ramp(line * LINE_BYTES, 1, LINE_BYTES)])
                ir.buffer_store(part, part[chain, ir.ramp(0, 1, 16)] + read, [chain, ir.ramp(0, 1, 16)])

            for chain in range(LINES_IN_FLIGHT):
                ir.buffer_store(part, ir.broadcast(ir.int32(0), 16), [chain, ir.ramp(0, 1, 16)])
            lines = ir.min(BLOCK_LINES, num_lines - block * BLOCK_LINES)
            with ir.serial(lines // LINES_IN_FLIGHT) as group:
                for chain in range(LINES_IN_FLIGHT):
                    add(block * BLOCK_LINES + group * LINES_IN_FLIGHT + chain, chain)
            with ir.serial(lines % LINES_IN_FLIGHT) as rest:
                add(block * BLOCK_LINES + lines // LINES_IN_FLIGHT * LINES_IN_FLIGHT + rest, 0)
            total = part[0, ir.ramp(0, 1, 16)]
            for chain in range(1, LINES_IN_FLIGHT):
                total = total + part[chain, ir.ramp(0, 1, 16)]
            ir.buffer_store(sums, total, [block, ir.ramp(0, 1, 16)])
    return builder.get()


@dataclass(frozen=True, kw_only=True)
class _Peak:
    """The fastest multiply-add instruction of a type on a CPU."""

    name: str
    lanes: int
    """Sums in one register."""
    sum_type: str
    """float32 or int32."""
    multiply_adds: int
    """What one instruction does."""
    step: Step
    import_llvm: str = ""
    """LLVM functions that `step` calls."""

    @property
    def vector(self) -> str:
        """Type of a register of sums."""
        return f"{self.sum_type}x{self.lanes}"

    @property
    def num_chains(self) -> int:
        """Independent registers of sums: enough to hide the latency, few enough to stay in registers."""
        return 16 if self.lanes == 16 else 10


def _peaks(requires: frozenset[str]) -> list[_Peak]:
    lanes = 16 if "avx512f" in requires else 8
    peaks = [_fp32(lanes), _int8(requires, lanes)]
    if {"avx512_bf16", "avx512f"} <= requires:
        peaks.append(_bf16())
    return peaks


def _intrinsic(dtype: str, name: str, *arguments: Expr) -> Expr:
    return ir.call_llvm_pure_intrin(dtype, ir.llvm_lookup_intrinsic_id(name), *arguments)


def _fp32(lanes: int) -> _Peak:
    def step(sums: Expr, a: Expr, b: Expr) -> Expr:
        # The intrinsic, since a multiplication and an addition might stay two instructions.
        return _intrinsic(f"float32x{lanes}", "llvm.fma", sums, a, b)

    return _Peak(name="fp32", lanes=lanes, sum_type="float32", multiply_adds=lanes, step=step)


def _int8(requires: frozenset[str], lanes: int) -> _Peak:
    if "avx512_vnni" in requires or "avx_vnni" in requires:
        # One instruction in its 512-bit and its VEX-encoded 256-bit form.
        bits = 512 if "avx512_vnni" in requires else 256
        lanes = bits // 32

        def dot(sums: Expr, a: Expr, b: Expr) -> Expr:
            bytes_a, bytes_b = (ir.reinterpret(f"{kind}8x{4 * lanes}", x) for kind, x in (("uint", a), ("int", b)))
            return _intrinsic(f"int32x{lanes}", f"llvm.x86.avx512.vpdpbusd.{bits}", sums, bytes_a, bytes_b)

        return _Peak(name="int8", lanes=lanes, sum_type="int32", multiply_adds=4 * lanes, step=dot)

    name = "llvm.x86.avx512.pmaddw.d.512" if "avx512bw" in requires else "llvm.x86.avx2.pmadd.wd"
    lanes = 16 if "avx512bw" in requires else 8

    def pairs(sums: Expr, a: Expr, b: Expr) -> Expr:
        # int8 widened to 16 bits. The product depends on the sums: it would be computed once, before the loop.
        left, right = (ir.reinterpret(f"int16x{2 * lanes}", x) for x in (sums, b))
        return sums + _intrinsic(f"int32x{lanes}", name, left, right)

    return _Peak(name="int8", lanes=lanes, sum_type="int32", multiply_adds=2 * lanes, step=pairs)


# TVM rewrites bfloat16 to float32 before LLVM sees it (apache-tvm 0.27), so the instruction is reached through a
# function on 32-bit integers.
_BF16_LLVM = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define <16 x float> @vamc_peak_dpbf16ps(<16 x float> %c, <16 x i32> %a, <16 x i32> %b) alwaysinline nounwind readnone {
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %c, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %r
}
"""


def _bf16() -> _Peak:
    def step(sums: Expr, a: Expr, b: Expr) -> Expr:
        return ir.call_extern(
            "float32x16", "vamc_peak_dpbf16ps", sums, *(ir.reinterpret("int32x16", x) for x in (a, b))
        )

    return _Peak(name="bf16", lanes=16, sum_type="float32", multiply_adds=32, step=step, import_llvm=_BF16_LLVM)


def _peak(peak: _Peak) -> Any:
    """Chains of dependent multiply-adds, one register of sums each, in a loop without a memory access."""
    name, lanes, chains = PEAK_PREFIX + peak.name, peak.lanes, peak.num_chains
    with IRBuilder() as builder, ir.prim_func(is_private=False, s_tir=True):
        ir.func_name(name)
        ir.func_attr({"global_symbol": name, "tirx.noalias": True})
        num_tasks = ir.int64()
        operands = ir.match_buffer(ir.arg("operands", ir.handle()), (2, 16), "int32")
        iterations = ir.arg("iterations", ir.int64())
        sums = ir.match_buffer(ir.arg("sums", ir.handle()), (num_tasks, SUMS), "int32")
        imported = ir.attr(ir.int32(0), "pragma_import_llvm", peak.import_llvm) if peak.import_llvm else nullcontext()
        with imported, ir.parallel(num_tasks) as task:
            part = ir.sblock_alloc_buffer((chains, lanes), peak.sum_type, scope="local")
            # Read at run time: known operands would be computed with while compiling.
            a, b = (ir.reinterpret(peak.vector, operands[row, ir.ramp(0, 1, lanes)]) for row in (0, 1))
            whole = ir.ramp(0, 1, lanes)
            for chain in range(chains):
                start = ir.reinterpret(peak.vector, sums[task, ir.ramp(chain * lanes, 1, lanes)])
                ir.buffer_store(part, start, [chain, whole])
            with ir.serial(iterations):
                for chain in range(chains):
                    ir.buffer_store(part, peak.step(part[chain, whole], a, b), [chain, whole])
            for chain in range(chains):
                end = ir.reinterpret(f"int32x{lanes}", part[chain, whole])
                ir.buffer_store(sums, end, [task, ir.ramp(chain * lanes, 1, lanes)])
        ir.Return(iterations * (chains * peak.multiply_adds))
    return builder.get()
