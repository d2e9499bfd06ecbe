"""The arithmetics of docs/kernels.md: which one, on which CPU, and what bounds it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from documented.machine import target_of
from vamc_compiler.kernels.instruction_set import InstructionSet
from vamc_compiler.kernels.linear import Arithmetic
from vamc_compiler.kernels.table import KernelTable

Peak = Literal["int8", "bf16", "fp32"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arithmetic on one kind of CPU."""

    key: str
    title: str
    """Its class, as the document names it."""
    cpu: str
    activations: str
    bound: str
    """What bounds a prefill, in words."""
    mcpu: str
    """What to compile for; `host` without AMX."""
    needs: Literal["", "avx512", "vnni", "bf16"]
    """What the CPU must have; empty for what every CPU has."""
    op: str
    weight_dtype: str
    peak: Peak
    peak_share: float = 1.0
    """How much of the peak the arithmetic can reach."""
    bfloat16_prefill: bool = False
    choice: int = -1
    """Which of the kernel table's choices; the last is for many tokens."""
    decodes: bool = True
    """Whether a step of one token uses it."""

    def arithmetic(self) -> Arithmetic | None:
        """What a build for that CPU uses; None where this machine cannot run it."""
        target = target_of(self.mcpu)
        if target is None:
            return None
        instructions = replace(InstructionSet.of(target.requires), amx=False, amx_bf16=False)
        if self.needs and not getattr(instructions, self.needs):
            return None
        table = KernelTable(instructions, bfloat16_prefill=self.bfloat16_prefill)
        return table.linear(self.op, self.weight_dtype)[self.choice][1]


FLOAT, INT8, W8A8 = "Linear", "QuantizedLinearPerChannel", "QuantizedLinearDynamic"
AVX2, AVX512 = "x86-64-v3", "x86-64-v4"
ROWS = (
    Row(
        key="vnni16",
        title="Vnni(DIGITS_16)",
        cpu="AVX-512 VNNI",
        activations="16 bits: two unsigned bytes, two vpdpbusd per weight vector",
        bound="int8 peak / 2",
        mcpu="host",
        needs="vnni",
        op=INT8,
        weight_dtype="int8",
        peak="int8",
        peak_share=0.5,
    ),
    Row(
        key="vnni8",
        title="Vnni(DIGITS_8)",
        cpu="AVX-512 VNNI",
        activations="8 bits, `w8a8_dynamic`",
        bound="int8 peak",
        mcpu="host",
        needs="vnni",
        op=W8A8,
        weight_dtype="int8",
        peak="int8",
    ),
    Row(
        key="pairs512",
        title="Pairs",
        cpu="AVX-512",
        activations="16 bits, or 8 for `w8a8_dynamic`; vpmaddwd, weights widened",
        bound="vpmaddwd peak",
        mcpu=AVX512,
        needs="avx512",
        op=INT8,
        weight_dtype="int8",
        peak="int8",
    ),
    Row(
        key="pairs2",
        title="Pairs",
        cpu="AVX2",
        activations="the same",
        bound="vpmaddwd peak",
        mcpu=AVX2,
        needs="",
        op=INT8,
        weight_dtype="int8",
        peak="int8",
    ),
    Row(
        key="half512",
        title="HalfFma",
        cpu="AVX-512",
        activations="float32",
        bound="FMA peak",
        mcpu="host",
        needs="avx512",
        op=FLOAT,
        weight_dtype="float16",
        peak="fp32",
    ),
    Row(
        key="half2",
        title="HalfFma",
        cpu="AVX2, up to 16 tokens",
        activations="float32",
        bound="FMA peak",
        mcpu=AVX2,
        needs="",
        op=FLOAT,
        weight_dtype="float16",
        peak="fp32",
        choice=0,
    ),
    Row(
        key="staged2",
        title="StagedHalfFma",
        cpu="AVX2, more than 16 tokens",
        activations="float32",
        bound="FMA peak",
        mcpu=AVX2,
        needs="",
        op=FLOAT,
        weight_dtype="float16",
        peak="fp32",
        decodes=False,
    ),
    Row(
        key="bf16dot",
        title="BFloat16Dot",
        cpu="AVX-512 BF16",
        activations="bfloat16",
        bound="bf16 peak",
        mcpu="host",
        needs="bf16",
        op=FLOAT,
        weight_dtype="bfloat16",
        peak="bf16",
    ),
    Row(
        key="half-bf16dot",
        title="HalfToBFloat16Dot",
        cpu="AVX-512 BF16",
        activations="bfloat16, `prefill_precision: bf16`",
        bound="bf16 peak",
        mcpu="host",
        needs="bf16",
        op=FLOAT,
        weight_dtype="float16",
        peak="bf16",
        bfloat16_prefill=True,
        decodes=False,
    ),
    Row(
        key="pair512",
        title="PairFma",
        cpu="AVX-512, bfloat16 weights",
        activations="float32",
        bound="FMA peak",
        mcpu=AVX512,
        needs="avx512",
        op=FLOAT,
        weight_dtype="bfloat16",
        peak="fp32",
    ),
    Row(
        key="pair2",
        title="PairFma",
        cpu="AVX2, bfloat16 weights",
        activations="float32",
        bound="FMA peak",
        mcpu=AVX2,
        needs="",
        op=FLOAT,
        weight_dtype="bfloat16",
        peak="fp32",
    ),
)

BY_KEY = {row.key: row for row in ROWS}
