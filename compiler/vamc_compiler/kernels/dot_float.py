"""Products of 16-bit weights with float32 activations, fused multiply-adds in float32.

Sums are taken in blocks of `BLOCK_INPUTS`: the rounding error stays near that of the last addition, so that
tensor-parallel degrees, which add in another order, agree more closely. The order is the same for every tile: a
token's result does not depend on what else is in the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vamc_compiler.kernels import tir
from vamc_compiler.kernels.activations import FLOAT32_ROWS, Format
from vamc_compiler.kernels.linear import Arithmetic, Sums, Tile
from vamc_compiler.kernels.tir import LANES, Buffer, Expr, Registers, bits, cast, load, splat, store
from vamc_compiler.packing import PAIRS, PANELS, Packing

BLOCK_INPUTS = 64


class _BlockedSums:
    """Sums of a tile, in registers within a block of inputs, in the first cache over blocks."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.block = Registers(count)
        self.total = Registers(count)
        for register in range(count):
            self.total[register] = splat(0.0)

    def begin_block(self) -> None:
        for register in range(self.count):
            self.block[register] = splat(0.0)

    def end_block(self) -> None:
        for register in range(self.count):
            self.total[register] = self.total[register] + self.block[register]


@dataclass(frozen=True)
class HalfFma(Arithmetic):
    """float16 weights [k, i + 2, 16], converted as they are loaded. Tiles of 6 tokens times 4 panels (AVX2: 3 times 2).

    Bound: in decode a streaming read of the weights (reached), in prefill the fp32 FMA peak (how
    near: docs/kernels.md; far from it with AVX2, where conversions share the ports of the multiply-adds: see
    `StagedHalfFma`).
    """

    rows: int
    panels: int
    form: Format = FLOAT32_ROWS
    name: str = "float16"
    packing: Packing = PANELS
    weight_dtype: str = "float16"

    def tile(self, tile: Tile, x: Sequence[Buffer], inputs: int) -> Sums:
        """See `Arithmetic.tile`."""
        sums = _BlockedSums(tile.rows * tile.panels)
        with tir.serial(0, -(-inputs // BLOCK_INPUTS)) as block:
            sums.begin_block()
            with tir.serial(block * BLOCK_INPUTS, tir.smaller(inputs, (block + 1) * BLOCK_INPUTS)) as i:
                weights = [
                    cast(load(tile.weight, tile.weight_panel + panel, i, 0), "float32") for panel in range(tile.panels)
                ]
                for row in range(tile.rows):
                    value = splat(x[0][tile.first_row + row, 0, i])
                    for panel in range(tile.panels):
                        register = row * tile.panels + panel
                        sums.block[register] = sums.block[register] + value * weights[panel]
            sums.end_block()
        return lambda row, panel: sums.total[row * tile.panels + panel]


@dataclass(frozen=True)
class StagedHalfFma(HalfFma):
    """The same in calls of many tokens on CPUs with narrow registers: a panel is converted once for all of them.

    The float32 panel stays in the second cache. Tiles of 6 tokens times 1 panel; results are `HalfFma`'s bit by
    bit. Bound: the fp32 FMA peak.
    """

    name: str = "float16_staged"

    def stage(self, weight: Buffer, first_panel: Expr, panels: int, inputs: int) -> Buffer:
        """See `Arithmetic.stage`."""
        staged = tir.scratch((panels, inputs, LANES), "float32")
        for panel in range(panels):
            with tir.serial(0, inputs) as i:
                store(staged, cast(load(weight, first_panel + panel, i, 0), "float32"), panel, i, 0)
        return staged


@dataclass(frozen=True)
class PairFma(Arithmetic):
    """bfloat16 weights in pairs of inputs [k, ceil(i / 2) + 1, 16, 2], read as one uint32 per pair, on any CPU.

    Tiles as `HalfFma`. Bound: in decode a streaming read of the weights (reached), in prefill the fp32 FMA peak (how
    near: docs/kernels.md).
    """

    rows: int
    panels: int
    form: Format = FLOAT32_ROWS
    name: str = "bfloat16_fma"
    packing: Packing = PAIRS
    weight_dtype: str = "uint16"

    def tile(self, tile: Tile, x: Sequence[Buffer], inputs: int) -> Sums:
        """See `Arithmetic.tile`."""
        sums = _BlockedSums(tile.rows * tile.panels)
        pairs, block_pairs = -(-inputs // 2), BLOCK_INPUTS // 2
        with tir.serial(0, -(-pairs // block_pairs)) as block:
            sums.begin_block()
            with tir.serial(block * block_pairs, tir.smaller(pairs, (block + 1) * block_pairs)) as pair:
                both = [
                    bits(load(tile.weight, tile.weight_panel + panel, pair, 0, lanes=2 * LANES), "uint32")
                    for panel in range(tile.panels)
                ]
                for second in range(2):
                    weights = [
                        bits(
                            w & splat(0xFFFF0000, "uint32") if second else w << splat(16, "uint32"),
                            "float32",
                        )
                        for w in both
                    ]
                    for row in range(tile.rows):
                        value = splat(self._input(x[0], tile.first_row + row, pair * 2 + second, inputs))
                        for panel in range(tile.panels):
                            register = row * tile.panels + panel
                            sums.block[register] = sums.block[register] + value * weights[panel]
            sums.end_block()
        return lambda row, panel: sums.total[row * tile.panels + panel]

    def _input(self, x: Buffer, row: Expr, index: Expr, inputs: int) -> Expr:
        """A value of x; the one beyond an odd end meets a zero weight, and may be any number that is there."""
        return x[row, 0, tir.smaller(index, inputs - 1) if inputs % 2 else index]
