"""What a CPU target can do, as far as kernels care."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class InstructionSet:
    """Feature levels above AVX2 with FMA and F16C, which every target has."""

    avx512: bool = False
    vnni: bool = False
    """vpdpbusd on 512-bit registers."""
    bf16: bool = False
    """vdpbf16ps on 512-bit registers."""
    amx: bool = False
    """Tiles with int8 products, beside VNNI."""
    amx_bf16: bool = False
    """Tiles with bfloat16 products, beside AVX-512 BF16."""

    @staticmethod
    def of(features: Collection[str]) -> InstructionSet:
        """From feature names as in /proc/cpuinfo."""
        avx512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(features)
        vnni, bf16 = avx512 and "avx512_vnni" in features, avx512 and "avx512_bf16" in features
        return InstructionSet(
            avx512=avx512,
            vnni=vnni,
            bf16=bf16,
            amx=vnni and {"amx_tile", "amx_int8"} <= set(features),
            amx_bf16=bf16 and {"amx_tile", "amx_bf16"} <= set(features),
        )
