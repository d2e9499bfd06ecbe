"""Products of bfloat16 weights with bfloat16 activations: vdpbf16ps, float32 sums (AVX-512 BF16).

TVM rewrites bfloat16 to float32 before LLVM sees it, so the instruction is reached through a small LLVM function on
32-bit lanes that is imported beside the kernel (apache-tvm 0.27; no longer needed once TVM passes bfloat16 vectors to
intrinsics).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import tvm.script.ir_builder.tirx as ir

from vamc_compiler.kernels import tir, vector_math
from vamc_compiler.kernels.activations import BFLOAT16, FLOAT32_AND_BFLOAT16, Format
from vamc_compiler.kernels.linear import Arithmetic, Sums, Tile, fetch_ahead
from vamc_compiler.kernels.tir import LANES, Buffer, Expr, Registers, bits, cast, load, splat, store
from vamc_compiler.packing import PAIRS, PANELS, Packing

LLVM_FUNCTION = "vamc_dpbf16"
LLVM_IR = f"""
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define linkonce_odr <16 x float> @{LLVM_FUNCTION}(<16 x float> %c, <16 x i32> %a, <16 x i32> %b)
    alwaysinline nounwind readnone {{
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %c, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %r
}}
"""


@dataclass(frozen=True)
class BFloat16Dot(Arithmetic):
    """Weights in pairs of inputs [k, ceil(i / 2) + 1, 16, 2]. Tiles of 6 tokens times 4 panels.

    Bound: in decode a streaming read of the weights (reached), in prefill the bf16 peak
    (how near: docs/kernels.md).
    """

    rows: int = 6
    panels: int = 4
    fetch_panels: int = 2
    form: Format = BFLOAT16
    name: str = "bfloat16"
    packing: Packing = PAIRS
    weight_dtype: str = "uint16"

    def imports(self) -> contextlib.AbstractContextManager[object]:
        """See `Arithmetic.imports`."""
        return tir.import_llvm(LLVM_IR)

    def _pair(self, tile: Tile, panel: int, pair: Expr) -> Expr:
        """16 outputs times 2 inputs as int32."""
        return bits(load(tile.weight, tile.weight_panel + panel, pair, 0, lanes=2 * LANES), "int32")

    def tile(self, tile: Tile, x: Sequence[Buffer], inputs: int) -> Sums:
        """See `Arithmetic.tile`."""
        sums = Registers(tile.rows * tile.panels)
        for register in range(tile.rows * tile.panels):
            sums[register] = splat(0.0)
        with tir.serial(0, -(-inputs // 2)) as pair:
            fetch_ahead(tile, pair)
            weights = [self._pair(tile, panel, pair) for panel in range(tile.panels)]
            for row in range(tile.rows):
                two = splat(bits(load(x[-1], tile.first_row + row, 0, pair * 2, lanes=2), "int32", 1))
                for panel in range(tile.panels):
                    register = row * tile.panels + panel
                    sums[register] = ir.call_extern("float32x16", LLVM_FUNCTION, sums[register], two, weights[panel])
        return lambda row, panel: sums[row * tile.panels + panel]


@dataclass(frozen=True)
class HalfToBFloat16Dot(BFloat16Dot):
    """float16 weights [k, i, 16], rounded to bfloat16 one group of panels at a time (`prefill_precision: bf16`).

    The rounded group stays in the second cache for all tokens of the call. Bound: the bf16 peak.
    """

    fetch_panels: int = 0
    form: Format = FLOAT32_AND_BFLOAT16
    name: str = "float16_as_bfloat16"
    packing: Packing = PANELS
    weight_dtype: str = "float16"

    def stage(self, weight: Buffer, first_panel: Expr, panels: int, inputs: int) -> Buffer:
        """See `Arithmetic.stage`."""
        pairs = -(-inputs // 2)
        staged = tir.scratch((panels, pairs, LANES), "uint32")
        for panel in range(panels):
            with tir.serial(0, pairs) as pair:
                low, high = (self._rounded(weight, first_panel + panel, pair * 2 + i, inputs) for i in range(2))
                store(staged, low | (high << splat(16, "uint32")), panel, pair, 0)
        return staged

    def _pair(self, tile: Tile, panel: int, pair: Expr) -> Expr:
        return bits(load(tile.weight, tile.weight_panel + panel, pair, 0), "int32")

    @staticmethod
    def _rounded(weight: Buffer, panel: Expr, index: Expr, inputs: int) -> Expr:
        """One input's 16 weights as the bits of bfloat16; beyond an odd end they are 0."""
        within = tir.smaller(index, inputs - 1) if inputs % 2 else index
        rounded = cast(vector_math.to_bfloat16(cast(load(weight, panel, within, 0), "float32")), "uint32")
        return tir.select(splat(index, "int64") < inputs, rounded, splat(0, "uint32")) if inputs % 2 else rounded
