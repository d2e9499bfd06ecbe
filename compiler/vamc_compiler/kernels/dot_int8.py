"""Products of int8 weights with quantized activations: exact in int32, scaled once per token.

Weight [k, quads + 1, 64] int8 (`vamc_compiler.packing.QuadPacking`): 16 outputs times 4 inputs to a vector; the last
vector of a panel holds 128 * the sum of each output's weights as int32. The same bytes serve three instruction sets:

- `Vnni`: vpdpbusd multiplies unsigned bytes by signed ones, four inputs to a sum. One plane of digits is an 8-bit
  activation, two are a 16-bit one: x = scale * (256 * high + low), which costs two instructions per weight vector.
  16 bits leave an error of 1/65534 of the row's largest value, a tenth of what a float16 activation has.
- `Pairs`: vpmaddwd multiplies 16-bit numbers, two inputs to a sum, on any AVX2 or AVX-512 machine; weights are
  widened as they are loaded. Sums move to floats before they could overflow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vamc_compiler.kernels import tir
from vamc_compiler.kernels.activations import Format
from vamc_compiler.kernels.linear import Arithmetic, Sums, Tile, fetch_ahead
from vamc_compiler.kernels.tir import LANES, Buffer, Expr, Registers, bits, cast, intrinsic, load, splat
from vamc_compiler.packing import QUADS, QuadPacking
from vamc_runtime.errors import UserError

LARGEST_SUM = 2**31 - 1
FLUSH_QUADS = 128
"""Quads after which 16-bit products are moved to floats, both half sums in one int32: 128 * 4 * 32767 * 127 < 2^31."""
DIGITS_8 = Format("digits8", "uint8", planes=1, levels=127)
DIGITS_16 = Format("digits16", "uint8", planes=2, levels=32767)
WHOLE_8 = Format("whole8", "int16", levels=127)
WHOLE_16 = Format("whole16", "int16", levels=32767)


def scaled_sums(
    tile: Tile, form: Format, quads: int, scales: Buffer, sums: Callable[[Expr | int, int, int], Expr]
) -> Sums:
    """What (row, panel, plane) -> 16 sums of digits times weights stand for, without the activations' offset."""

    def finished(row: Expr | int, panel: int) -> Expr:
        offset = bits(load(tile.weight, tile.weight_panel + panel, quads, 0, lanes=64), "int32")
        total = cast(sums(row, panel, 0) - offset, "float32")
        for plane in range(1, form.planes):
            total = total * splat(256.0) + cast(sums(row, panel, plane), "float32")
        return total * splat(scales[tile.first_row + row])

    return finished


@dataclass(frozen=True)
class Vnni(Arithmetic):
    """AVX-512 VNNI. Tiles of 3 tokens (16 bits) or 6 (8 bits) times 4 panels.

    Bound: in decode a streaming read of the weights (reached), in prefill the int8 peak divided by the planes (how
    near: docs/kernels.md).
    """

    form: Format
    rows: int
    panels: int = 4
    packing: QuadPacking = QUADS
    weight_dtype: str = "int8"

    @property
    def name(self) -> str:
        """See `Arithmetic.name`."""
        return f"vnni_{self.form.name}"

    @property
    def fetch_panels(self) -> int:
        """See `Arithmetic.fetch_panels`: as much as the tiles of 17 tokens need to hide the next group."""
        return 2 if self.form.planes == 1 else 1

    def check(self, inputs: int) -> None:
        """Refuse rows whose sum of products could exceed int32."""
        if inputs * 255 * 127 > LARGEST_SUM:
            most = LARGEST_SUM // (255 * 127)
            raise UserError(
                f"a linear layer has {inputs} inputs",
                expected=f"at most {most} for int8 on this CPU",
                fix="compile with backend.dtype: fp16, or spread the layer over more ranks",
            )

    def tile(self, tile: Tile, x: Sequence[Buffer], inputs: int) -> Sums:
        """See `Arithmetic.tile`."""
        numbers, scales = x
        planes, quads = self.form.planes, -(-inputs // 4)
        sums = Registers(tile.rows * tile.panels * planes, "int32")

        def place(row: int, panel: int, plane: int) -> int:
            return (row * tile.panels + panel) * planes + plane

        for register in range(tile.rows * tile.panels * planes):
            sums[register] = splat(0, "int32")
        with tir.serial(0, quads) as quad:
            fetch_ahead(tile, quad)
            weights = [load(tile.weight, tile.weight_panel + panel, quad, 0, lanes=64) for panel in range(tile.panels)]
            for row in range(tile.rows):
                for plane in range(planes):
                    four = bits(load(numbers, tile.first_row + row, plane, quad * 4, lanes=4), "int32", 1)
                    four = bits(splat(four), "uint8", 64)
                    for panel in range(tile.panels):
                        register = place(row, panel, plane)
                        sums[register] = intrinsic(
                            "int32x16", "llvm.x86.avx512.vpdpbusd.512", sums[register], four, weights[panel]
                        )

        return scaled_sums(tile, self.form, quads, scales, lambda *index: sums[place(*index)])


@dataclass(frozen=True)
class Pairs(Arithmetic):
    """AVX2 (`width` 16 numbers of 16 bits to a register) or AVX-512 without VNNI (32). Tiles of 3 or 6 tokens, 1 panel.

    Bound: in decode a streaming read of the weights (reached), in prefill one vpmaddwd and one addition for two inputs,
    whatever the activation's bits.
    """

    form: Format
    width: int
    rows: int
    panels: int = 1
    packing: QuadPacking = QUADS
    weight_dtype: str = "int8"

    @property
    def name(self) -> str:
        """See `Arithmetic.name`."""
        return f"pairs{self.width}_{self.form.name}"

    def _multiply(self, weights: Expr, numbers: Expr) -> Expr:
        name = "llvm.x86.avx2.pmadd.wd" if self.width == 16 else "llvm.x86.avx512.pmaddw.d.512"
        return intrinsic(f"int32x{self.width // 2}", name, weights, numbers)

    def tile(self, tile: Tile, x: Sequence[Buffer], inputs: int) -> Sums:
        """See `Arithmetic.tile`; a register holds two half sums of each of its outputs, side by side."""
        numbers, scales = x
        quads, half = -(-inputs // 4), self.width // 2
        parts = 64 // self.width
        outputs = self.width // 4
        totals = Registers(tile.rows * tile.panels)
        sums = Registers(tile.rows * tile.panels * parts, "int32", half)

        def place(row: int, panel: int, part: int) -> int:
            return (row * tile.panels + panel) * parts + part

        for register in range(tile.rows * tile.panels):
            totals[register] = splat(0.0)
        with tir.serial(0, -(-quads // FLUSH_QUADS)) as flush:
            for register in range(tile.rows * tile.panels * parts):
                sums[register] = splat(0, "int32", half)
            with tir.serial(flush * FLUSH_QUADS, tir.smaller(quads, (flush + 1) * FLUSH_QUADS)) as quad:
                fours = [
                    bits(
                        splat(
                            bits(load(numbers, tile.first_row + row, 0, quad * 4, lanes=4), "int64", 1), lanes=outputs
                        ),
                        "int16",
                        self.width,
                    )
                    for row in range(tile.rows)
                ]
                for panel in range(tile.panels):
                    for part in range(parts):
                        raw = load(tile.weight, tile.weight_panel + panel, quad, part * self.width, lanes=self.width)
                        for row in range(tile.rows):
                            register = place(row, panel, part)
                            product = self._multiply(cast(raw, "int16", self.width), fours[row])
                            sums[register] = sums[register] + product
            for row in range(tile.rows):
                for panel in range(tile.panels):
                    register = row * tile.panels + panel
                    for lane in range(LANES):
                        part, pair = divmod(lane, outputs)
                        first = sums.lane(place(row, panel, part), 2 * pair)
                        second = sums.lane(place(row, panel, part), 2 * pair + 1)
                        total = totals.lane(register, lane) + cast(first + second, "float32", 1)
                        totals.set_lane(register, lane, total)

        return lambda row, panel: totals[row * tile.panels + panel] * splat(scales[tile.first_row + row])
