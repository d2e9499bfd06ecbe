"""Products of many tokens on the tile unit of Intel Sapphire Rapids and later (AMX): tdpbusd and tdpbf16ps.

They read the weights and activations of `dot_int8.Vnni`, `dot_bf16.BFloat16Dot` and `HalfToBFloat16Dot` as they are: a
word is 4 neighbouring bytes of a row of x or of an output, and 16 words of the 16 outputs of a panel are a weight
tile. int8 results are those of `Vnni`, bit by bit; bfloat16 results differ in the order of float32 additions.

Never run on such a CPU: docs/kernels.md says how it is tested. Instructions: Intel 64 and IA-32 Architectures Software
Developer's Manual, volume 1 chapter 18 and volume 2.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vamc_compiler.kernels import tir
from vamc_compiler.kernels.dot_bf16 import BFloat16Dot, HalfToBFloat16Dot
from vamc_compiler.kernels.dot_int8 import Vnni, scaled_sums
from vamc_compiler.kernels.linear import Sums, Tile
from vamc_compiler.kernels.tir import LANES, Buffer, Expr, load

TILE_ROWS = 16
TILE_BYTES = 64
"""Bytes of a row of a tile: 16 words."""
PANELS = 8
"""Panels of a group. More of them read x more rarely from the third cache, fewer fit the second one: 8 panels of 8192
int8 inputs are 1 MiB."""
BLOCK_TILES = 8

# Tile registers: products of either x tile with either weight tile. Each tile that is loaded serves two products, the
# most that eight registers allow.
_SUMS, _X, _WEIGHT = ((0, 1), (2, 3)), (4, 5), (6, 7)


def _function(name: str, instruction: str, *arguments: str) -> str:
    """LLVM IR of a function that is one instruction, its operands $0, $1 ... being the arguments of these types."""
    signature = ", ".join(f"{kind} %a{i}" for i, kind in enumerate(arguments))
    constraints = ",".join(["r"] * len(arguments) + ["~{memory}"])
    return f"""
define linkonce_odr void @vamc_{name}({signature}) alwaysinline nounwind {{
  call void asm sideeffect "{instruction}", "{constraints}"({signature})
  ret void
}}
"""


def _functions() -> str:
    """Every instruction that the kernels use, as text.

    LLVM's intrinsics for numbered tiles (llvm.x86.tileloadd64 and so on) would be shorter, but its scheduler renames
    their registers where it sees another one free (LLVM 22, `-break-anti-dependencies`, on for znver4), and that one is
    configured for another shape. To be removed when LLVM respects the numbers.
    """
    text = _function("tile_configure", "ldtilecfg ($0)", "ptr") + _function("tile_release", "tilerelease")
    for register in _SUMS[0] + _SUMS[1]:
        text += _function(f"tile_zero_{register}", f"tilezero %tmm{register}")
        text += _function(f"tile_store_{register}", f"tilestored %tmm{register}, ($0,$1)", "ptr", "i64")
    for register in range(8):
        text += _function(f"tile_load_{register}", f"tileloadd ($0,$1), %tmm{register}", "ptr", "i64")
    for instruction in ("tdpbusd", "tdpbf16ps"):
        for x, sums in zip(_X, _SUMS, strict=True):
            for weight, total in zip(_WEIGHT, sums, strict=True):
                text += _function(f"{instruction}_{total}", f"{instruction} %tmm{weight}, %tmm{x}, %tmm{total}")
    return text


FUNCTIONS = _functions()


class _XTile(NamedTuple):
    """Some rows of one plane of x."""

    plane: int
    first_row: Expr | int
    """Within the tile of the frame."""
    rows: Expr


class _Steps(NamedTuple):
    """Words that are multiplied under one configuration of the tile registers."""

    first_word: int
    count: int
    words: int
    """Words of each step, up to 16."""


def _x_tiles(planes: int, rows: Expr) -> tuple[_XTile, _XTile]:
    """Two planes of up to 16 rows, or up to 32 rows in two parts; a row alone is in both, as no tile may be empty."""
    if planes == 2:
        return _XTile(0, 0, rows), _XTile(1, 0, rows)
    assert planes == 1, "there are two x tiles"
    lower = tir.opaque(tir.larger(rows // 2, 1))
    return _XTile(0, 0, tir.opaque((rows + 1) // 2)), _XTile(0, tir.opaque(rows - lower), lower)


def _configure(x_tiles: tuple[_XTile, _XTile], words: int) -> None:
    """Give every tile register its rows and bytes per row; clears them all."""
    first, second = (tir.cast(x_tile.rows, "int32", 1) for x_tile in x_tiles)
    values = [tir.constant(0, "int32")] * 16
    values[0] = tir.constant(1, "int32")  # the one palette there is
    # From byte 16 on, 16 bits for the bytes of a row of each register; from byte 48 on, 8 bits for the rows.
    for register in range(0, 8, 2):
        num_bytes = 4 * words if register in _X else TILE_BYTES
        values[4 + register // 2] = tir.constant(num_bytes | num_bytes << 16, "int32")
    values[12] = first * 0x0101 + second * 0x01010000
    values[13] = first + second * 0x0100 + words * 0x01010000
    memory = tir.scratch((16,), "int32")
    for index, value in enumerate(values):
        tir.store(memory, value, index, lanes=1)
    tir.call("vamc_tile_configure", tir.address(memory, 0))


def _multiply(instruction: str, tile: Tile, x: Buffer, words: int, max_rows: int) -> Buffer:
    """Emit the products of a tile: [panels, planes, max_rows, 16] sums, int32 or float32.

    Args:
        instruction: name of the product.
        tile: with any number of rows.
        x: [n, planes, stride] bytes or 16-bit numbers.
        words: words of a row of x that count.
        max_rows: most rows of a tile.
    """
    planes = int(x.shape[1])
    word = 4 // {"uint8": 1, "uint16": 2}[x.dtype]
    x_stride = tir.constant(int(x.shape[1] * x.shape[2]) // word * 4, "int64")
    row_stride = tir.constant(TILE_BYTES, "int64")
    sums = tir.scratch((tile.panels, planes, max_rows, LANES), "int32" if instruction == "tdpbusd" else "float32")
    x_tiles = _x_tiles(planes, tile.rows)
    pairs = [range(first, min(first + 2, tile.panels)) for first in range(0, tile.panels, 2)]

    def load_x(number: int, first_word: Expr) -> None:
        plane, row, _ = x_tiles[number]
        start = tir.address(x, tile.first_row + row, plane, first_word * word)
        tir.call(f"vamc_tile_load_{_X[number]}", start, x_stride)

    def load_weight(number: int, panel: int, first_word: Expr) -> None:
        start = tir.address(tile.weight, tile.weight_panel + panel, first_word, 0)
        tir.call(f"vamc_tile_load_{_WEIGHT[number]}", start, row_stride)

    def product(x_number: int, weight_number: int) -> None:
        tir.call(f"vamc_{instruction}_{_SUMS[x_number][weight_number]}")

    def move_sums(name: str, panels: Sequence[int]) -> None:
        for (plane, row, _), registers in zip(x_tiles, _SUMS, strict=True):
            for panel, register in zip(panels, registers, strict=False):
                tir.call(f"vamc_tile_{name}_{register}", tir.address(sums, panel, plane, row, 0), row_stride)

    def run(steps: _Steps, panels: Sequence[int], fresh: bool) -> None:
        if fresh:
            for register in _SUMS[0] + _SUMS[1]:
                tir.call(f"vamc_tile_zero_{register}")
        else:
            move_sums("load", panels)
        with tir.serial(0, steps.count) as step:
            first_word = steps.first_word + step * TILE_ROWS
            for x_number in range(2):
                load_x(x_number, first_word)
                for weight_number, panel in enumerate(panels):
                    if x_number == 0:
                        load_weight(weight_number, panel, first_word)
                    product(x_number, weight_number)
        move_sums("store", panels)

    whole, rest = divmod(words, TILE_ROWS)
    # The odd end first: two configurations for a tile, whatever its panels.
    parts = [_Steps(whole * TILE_ROWS, min(rest, 1), rest), _Steps(0, whole, TILE_ROWS)]
    parts = [part for part in parts if part.count]
    for part in parts:
        _configure(x_tiles, part.words)
        for panels in pairs:
            run(part, panels, fresh=part is parts[0])
    tir.call("vamc_tile_release")
    return sums


@dataclass(frozen=True)
class AmxInt8(Vnni):
    """int8 weights with unsigned digits; two planes take both x tiles, one plane has 32 rows instead."""

    panels: int = PANELS
    any_rows: bool = True
    block_tiles: int = BLOCK_TILES

    @property
    def name(self) -> str:  # type: ignore[override]
        """See `Arithmetic.name`."""
        return f"amx_{self.form.name}"

    def imports(self) -> contextlib.AbstractContextManager[object]:
        """See `Arithmetic.imports`."""
        return tir.import_llvm(FUNCTIONS)

    def tile(self, tile: Tile, x: Sequence[Buffer], inputs: int) -> Sums:
        """See `Arithmetic.tile`."""
        numbers, scales = x
        words = -(-inputs // 4)
        sums = _multiply("tdpbusd", tile, numbers, words, self.rows)
        return scaled_sums(
            tile, self.form, words, scales, lambda row, panel, plane: load(sums, panel, plane, row, 0)
        )


class _BFloat16Tiles:
    """bfloat16 on the tile unit, whatever makes the weights."""

    rows: int

    def imports(self) -> contextlib.AbstractContextManager[object]:
        """See `Arithmetic.imports`."""
        return tir.import_llvm(FUNCTIONS)

    def tile(self, tile: Tile, x: Sequence[Buffer], inputs: int) -> Sums:
        """See `Arithmetic.tile`."""
        sums = _multiply("tdpbf16ps", tile, x[-1], -(-inputs // 2), self.rows)
        return lambda row, panel: load(sums, panel, 0, row, 0)


@dataclass(frozen=True)
class AmxBFloat16(_BFloat16Tiles, BFloat16Dot):
    """bfloat16 weights and activations."""

    rows: int = 2 * TILE_ROWS
    panels: int = PANELS
    any_rows: bool = True
    block_tiles: int = BLOCK_TILES
    name: str = "amx_bfloat16"


@dataclass(frozen=True)
class AmxHalfToBFloat16(_BFloat16Tiles, HalfToBFloat16Dot):
    """float16 weights, rounded to bfloat16 one group of panels at a time."""

    rows: int = 2 * TILE_ROWS
    panels: int = PANELS
    any_rows: bool = True
    block_tiles: int = BLOCK_TILES
    name: str = "amx_float16_as_bfloat16"
