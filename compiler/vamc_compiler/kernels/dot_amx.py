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
"""Panels of a group. With more of them x is read more rarely from the third cache, with fewer the group fits the second
one sooner: 8 panels of 8192 int8 inputs are 1 MiB."""
BLOCK_TILES = 8

# Tile registers: the sums of either x tile times either weight tile. Each tile that is loaded serves two products, the
# most that eight registers allow.
_SUMS, _X, _WEIGHT = ((0, 1), (2, 3)), (4, 5), (6, 7)


def _function(name: str, instruction: str, *arguments: str) -> str:
    """LLVM IR of a function that is one instruction; $0, $1 in it are the arguments of these types."""
    signature = ", ".join(f"{kind} %a{i}" for i, kind in enumerate(arguments))
    constraints = ",".join(["r"] * len(arguments) + ["~{memory}"])
    return f"""
define linkonce_odr void @vamc_{name}({signature}) alwaysinline nounwind {{
  call void asm sideeffect "{instruction}", "{constraints}"({signature})
  ret void
}}
"""


def _functions() -> str:
    """Every instruction that the kernels use, as text with its registers in it.

    LLVM's intrinsics for numbered tiles (llvm.x86.tileloadd64 and its like) would be shorter. But where LLVM schedules
    after register allocation, it renames their registers to free ones, whose shape is another (LLVM 22: for znver4 and
    znver5, not for sapphirerapids and graniterapids). To be replaced by them once LLVM keeps the numbers.
    """
    text = _function("tile_configure", "ldtilecfg ($0)", "ptr") + _function("tile_release", "tilerelease")
    for register in range(8):
        text += _function(f"tile_load_{register}", f"tileloadd ($0,$1), %tmm{register}", "ptr", "i64")
    for register in _SUMS[0] + _SUMS[1]:
        text += _function(f"tile_zero_{register}", f"tilezero %tmm{register}")
        text += _function(f"tile_store_{register}", f"tilestored %tmm{register}, ($0,$1)", "ptr", "i64")
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
    num_steps: int
    words: int
    """Words of each step, up to 16."""


def _x_tiles(planes: int, rows: Expr) -> tuple[_XTile, _XTile]:
    """Two planes of up to 16 rows, or up to 32 rows in two parts; a row alone is in both, as no tile may be empty."""
    if planes == 2:
        return _XTile(0, 0, rows), _XTile(1, 0, rows)
    assert planes == 1, "there are two x tiles"
    lower = tir.opaque(tir.larger(rows // 2, 1))
    return _XTile(0, 0, tir.opaque((rows + 1) // 2)), _XTile(0, tir.opaque(rows - lower), lower)


def _all_steps(words: int) -> list[_Steps]:
    """The odd end, then the whole tiles: two configurations for a tile of the frame, whatever its panels."""
    whole, rest = divmod(words, TILE_ROWS)
    parts = (_Steps(whole * TILE_ROWS, min(rest, 1), rest), _Steps(0, whole, TILE_ROWS))
    return [part for part in parts if part.num_steps]


class _Product:
    """Emits the products of a tile with any number of rows.

    Args:
        instruction: which product.
        tile: what to compute.
        x: [n, planes, stride] bytes or 16-bit numbers.
        max_rows: most rows of a tile.
    """

    def __init__(self, instruction: str, tile: Tile, x: Buffer, max_rows: int) -> None:
        planes, stride = int(x.shape[1]), int(x.shape[2])
        self._instruction = instruction
        self._tile = tile
        self._x = x
        self._word_elements = 4 // {"uint8": 1, "uint16": 2}[x.dtype]
        self._x_tiles = _x_tiles(planes, tile.rows)
        self._x_stride = tir.constant(planes * stride * 4 // self._word_elements, "int64")
        self._row_stride = tir.constant(TILE_BYTES, "int64")
        dtype = "int32" if instruction == "tdpbusd" else "float32"
        self.sums = tir.scratch((tile.panels, planes, max_rows, LANES), dtype)
        """Result [panels, planes, max_rows, 16]; rows beyond the tile's are left as they were."""

    def run(self, words: int) -> None:
        """Multiply rows of that many words; the tile unit is free before and after."""
        pairs = [range(first, min(first + 2, self._tile.panels)) for first in range(0, self._tile.panels, 2)]
        for number, steps in enumerate(_all_steps(words)):
            self._configure(steps.words)
            for panels in pairs:
                if number == 0:
                    for register in _SUMS[0] + _SUMS[1]:
                        tir.call(f"vamc_tile_zero_{register}")
                else:
                    self._move_sums("load", panels)
                with tir.serial(0, steps.num_steps) as step:
                    self._step(panels, steps.first_word + step * TILE_ROWS)
                self._move_sums("store", panels)
        tir.call("vamc_tile_release")

    def _configure(self, words: int) -> None:
        """Give every tile register its rows and bytes per row; this clears them."""
        first, second = (tir.cast(x_tile.rows, "int32", 1) for x_tile in self._x_tiles)
        values = [tir.constant(0, "int32")] * 16
        values[0] = tir.constant(1, "int32")  # the one palette there is
        # From byte 16 on, 16 bits for the bytes of a row of each register; from byte 48 on, 8 bits for its rows.
        for register in range(0, 8, 2):
            num_bytes = 4 * words if register in _X else TILE_BYTES
            values[4 + register // 2] = tir.constant(num_bytes | num_bytes << 16, "int32")
        values[12] = first * 0x0101 + second * 0x01010000
        values[13] = first + second * 0x0100 + words * 0x01010000
        memory = tir.scratch((16,), "int32")
        for index, value in enumerate(values):
            tir.store(memory, value, index, lanes=1)
        tir.call("vamc_tile_configure", tir.address(memory, 0))

    def _step(self, panels: Sequence[int], first_word: Expr) -> None:
        """Add the products of 16 words, one load ahead of each product that needs it."""
        tile = self._tile
        for (plane, row, _), x_register, sums in zip(self._x_tiles, _X, _SUMS, strict=True):
            start = tir.address(self._x, tile.first_row + row, plane, first_word * self._word_elements)
            tir.call(f"vamc_tile_load_{x_register}", start, self._x_stride)
            for panel, weight_register, total in zip(panels, _WEIGHT, sums, strict=False):
                if x_register == _X[0]:
                    start = tir.address(tile.weight, tile.weight_panel + panel, first_word, 0)
                    tir.call(f"vamc_tile_load_{weight_register}", start, self._row_stride)
                tir.call(f"vamc_{self._instruction}_{total}")

    def _move_sums(self, direction: str, panels: Sequence[int]) -> None:
        for (plane, row, _), registers in zip(self._x_tiles, _SUMS, strict=True):
            for panel, register in zip(panels, registers, strict=False):
                start = tir.address(self.sums, panel, plane, row, 0)
                tir.call(f"vamc_tile_{direction}_{register}", start, self._row_stride)


@dataclass(frozen=True)
class AmxInt8(Vnni):
    """int8 weights with unsigned digits; two planes take both x tiles, one plane has 32 rows instead."""

    panels: int = PANELS
    any_rows: bool = True
    block_tiles: int = BLOCK_TILES

    @property
    def name(self) -> str:
        """See `Arithmetic.name`."""
        return f"amx_{self.form.name}"

    def imports(self) -> contextlib.AbstractContextManager[object]:
        """See `Arithmetic.imports`."""
        return tir.import_llvm(FUNCTIONS)

    def tile(self, tile: Tile, x: Sequence[Buffer], inputs: int) -> Sums:
        """See `Arithmetic.tile`."""
        numbers, scales = x
        words = -(-inputs // 4)
        product = _Product("tdpbusd", tile, numbers, self.rows)
        product.run(words)

        def sums(row: Expr | int, panel: int, plane: int) -> Expr:
            return load(product.sums, panel, plane, row, 0)

        return scaled_sums(tile, self.form, words, scales, sums)


class _BFloat16Tiles:
    """bfloat16 on the tile unit, whatever makes the weights."""

    rows: int

    def imports(self) -> contextlib.AbstractContextManager[object]:
        """See `Arithmetic.imports`."""
        return tir.import_llvm(FUNCTIONS)

    def tile(self, tile: Tile, x: Sequence[Buffer], inputs: int) -> Sums:
        """See `Arithmetic.tile`."""
        product = _Product("tdpbf16ps", tile, x[-1], self.rows)
        product.run(-(-inputs // 2))
        return lambda row, panel: load(product.sums, panel, 0, row, 0)


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
