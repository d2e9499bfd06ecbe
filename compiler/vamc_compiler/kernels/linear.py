"""The frame of every linear kernel: y[n, o] = x[n, i] @ weight[o, i]^T, times scale[o] where weights are quantized.

Dimension letters: n tokens, o outputs, i inputs, k panels of 16 outputs. The frame cuts the work, an `Arithmetic`
computes one tile of it. A tile is a few tokens times a few panels, small enough that its sums stay in registers.

- Panels go to threads in groups; within a group the tiles of all tokens follow one another, so that memory is read
  once whatever the number of tokens, and later tiles find the group in the second cache.
- Tokens are dealt evenly to tiles: 514 tokens in tiles of at most 3 are 172 of 2 or 3, never a slow rest of 1.
- Many tokens are also cut into blocks, so that narrow matrices still occupy every thread.
"""

from __future__ import annotations

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vamc_compiler.kernels import tir
from vamc_compiler.kernels.activations import Format
from vamc_compiler.kernels.tir import LANES, Buffer, Expr, load, store
from vamc_compiler.packing import Packing


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Which tokens and panels: the places are known when the kernel runs, the sizes while it is built."""

    rows: Expr | int
    """A Python integer, except for an arithmetic with `any_rows`."""
    panels: int
    first_row: Expr
    first_panel: Expr
    weight: Buffer
    """Packed weight, or the part of it that `Arithmetic.stage` made."""
    weight_panel: Expr
    """First panel of the tile in `weight`."""
    ahead: Sequence[Expr] = ()
    """Panels to fetch ahead."""


def fetch_ahead(tile: Tile, line: Expr) -> None:
    """Fetch a cache line of each of the panels ahead; `line` is the position of the main loop."""
    for panel in tile.ahead:
        tir.prefetch(tile.weight, panel, line, 0)


Sums = Callable[[Expr | int, int], Expr]
"""(row of the tile, panel of the tile) -> 16 finished products, float32."""


class Arithmetic(ABC):
    """How a tile is computed on some instruction set."""

    form: Format
    """How it wants x."""
    packing: Packing
    weight_dtype: str
    """Type in which the packed weight's elements are read."""
    rows: int
    """Most tokens of a tile."""
    panels: int
    """Panels of a tile."""
    any_rows: bool = False
    """A tile's code serves any number of tokens, up to `rows`, instead of one known while the kernel is built."""
    block_tiles: int = 96
    """Tiles of one group that one thread takes in a row."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Part of the kernel's name."""

    @property
    def fetch_panels(self) -> int:
        """Panels of the next group that one tile fetches ahead, in calls of a few tiles; 0 leaves it to the CPU."""
        return 0

    def check(self, inputs: int) -> None:  # noqa: B027  # most have nothing to refuse
        """Raise UserError when rows of this width cannot be computed."""

    def imports(self) -> contextlib.AbstractContextManager[object]:
        """Entered around the kernel's body: LLVM functions that it calls."""
        return contextlib.nullcontext()

    def stage(self, weight: Buffer, first_panel: Expr, panels: int, inputs: int) -> Buffer | None:
        """Emit another form of a group of panels, which its tiles read instead; None to read the weight as it is."""
        return None

    @abstractmethod
    def tile(self, tile: Tile, x: Sequence[Buffer], inputs: int) -> Sums:
        """Emit the products of a tile; x are the tensors of `form`."""


@dataclass(frozen=True)
class _Call:
    """The buffers of one kernel."""

    arithmetic: Arithmetic
    inputs: int
    outputs: int
    x: tuple[Buffer, ...]
    weight: Buffer
    scale: Buffer | None
    y: Buffer

    def finish(self, tile: Tile) -> None:
        """Compute a tile and write it."""
        sums = self.arithmetic.tile(tile, self.x, self.inputs)
        whole = self.outputs // LANES
        for panel in range(tile.panels):
            column = (tile.first_panel + panel) * LANES

            def vector(panel: int = panel, column: Expr = column) -> None:
                def write(row: Expr | int) -> None:
                    value = sums(row, panel)
                    if self.scale is not None:
                        value = value * load(self.scale, column)
                    store(self.y, value, tile.first_row + row, column)

                tir.each(tile.rows, write)

            def ragged(panel: int = panel, column: Expr = column) -> None:
                products = tir.scratch((self.arithmetic.rows, LANES), "float32")
                tir.each(tile.rows, lambda row: store(products, sums(row, panel), row, 0))
                with tir.serial(0, self.outputs - whole * LANES) as lane:

                    def write(row: Expr | int) -> None:
                        value = products[row, lane]
                        if self.scale is not None:
                            value = value * self.scale[column + lane]
                        store(self.y, value, tile.first_row + row, column + lane, lanes=1)

                    tir.each(tile.rows, write)

            if whole * LANES == self.outputs or panel < tile.panels - 1:  # the ragged panel is the last of its group
                vector()
            else:
                tir.when(tile.first_panel + panel < whole, vector, ragged)

    def group(self, panels: int, first_panel: Expr, tokens: Expr, first: Expr, last: Expr, tiles: Expr) -> None:
        """Tiles first..last of a group of panels, `tiles` being all tiles of the tokens."""
        rows = self.arithmetic.rows
        staged = self.arithmetic.stage(self.weight, first_panel, panels, self.inputs)
        weight, weight_panel = (self.weight, first_panel) if staged is None else (staged, tir.constant(0, "int64"))
        with tir.serial(0, last - first) as step:
            number = tir.opaque(first + step)
            start = tir.opaque(number * tokens // tiles)
            count_here = tir.opaque((number + 1) * tokens // tiles - start)

            def one(count: Expr | int, ahead: Sequence[Expr] = ()) -> None:
                self.finish(
                    Tile(
                        rows=count,
                        panels=panels,
                        first_row=start,
                        first_panel=first_panel,
                        weight=weight,
                        weight_panel=weight_panel,
                        ahead=ahead,
                    )
                )

            def choose(counts: Sequence[int], ahead: Sequence[Expr] = ()) -> None:
                tir.switch(count_here, {count: functools.partial(one, count, ahead) for count in counts})

            if self.arithmetic.any_rows:
                one(count_here)
            elif self.arithmetic.fetch_panels and panels == self.arithmetic.panels:
                fetch = self.arithmetic.fetch_panels
                sharing = panels // fetch
                few = tir.select(tiles > 1, tir.constant(1, "int64"), tir.constant(0, "int64")) * tir.select(
                    tiles <= 2 * sharing, tir.constant(sharing, "int64"), tir.constant(0, "int64")
                )
                fetching = tir.opaque(tir.cast(number < few, "int64", 1))
                ahead = tir.opaque(first_panel + panels + number * fetch)
                # Calls of several tiles deal out their tokens evenly: no tile holds less than half of the most.
                tir.when(
                    fetching == 1,
                    lambda: choose(range(rows, rows // 2, -1), [ahead + panel for panel in range(fetch)]),
                    lambda: choose(range(rows, 0, -1)),
                )
            else:
                choose(range(rows, 0, -1))

    def all_groups(self, tokens: Expr) -> None:
        """Deal groups of panels, and blocks of tokens where there are many, to the threads."""
        panels, rows, block_tiles = self.arithmetic.panels, self.arithmetic.rows, self.arithmetic.block_tiles
        count = -(-self.outputs // LANES)
        panels = min(panels, count)
        groups, rest = divmod(count, panels)
        tiles = tir.opaque((tokens + (rows - 1)) // rows)
        blocks = tir.opaque((tiles + (block_tiles - 1)) // block_tiles)
        with tir.parallel(0, (groups + (rest > 0)) * blocks) as unit, self.arithmetic.imports():
            group, block = tir.opaque(unit // blocks), tir.opaque(unit % blocks)
            first, last = tir.opaque(block * tiles // blocks), tir.opaque((block + 1) * tiles // blocks)

            def whole() -> None:
                self.group(panels, group * panels, tokens, first, last, tiles)

            def narrow() -> None:
                self.group(rest, group * panels, tokens, first, last, tiles)

            if rest:
                tir.when(group < groups, whole, narrow)
            else:
                whole()


@functools.cache
def linear_kernel(choices: tuple[tuple[int, Arithmetic], ...], inputs: int, outputs: int, scaled: bool) -> tir.Kernel:
    """The function y = f(x..., weight[, scale]).

    Args:
        choices: (most tokens, arithmetic), ascending: the first that allows the call's tokens computes it. All read
            the same packed weight, and the last one's `form` holds the tensors of every one.
        inputs: width of x.
        outputs: width of y.
        scaled: whether the products are multiplied by a float32 scale per output.
    """
    _, widest = choices[-1]
    for _, arithmetic in choices:
        arithmetic.check(inputs)
    name = f"linear_{widest.name}_{outputs}x{inputs}"
    with tir.function(name) as builder:
        tokens = tir.size()
        x = tuple(
            tir.argument(f"x_{i}", shape, dtype) for i, (shape, dtype) in enumerate(widest.form.tensors(tokens, inputs))
        )
        weight_shape = widest.packing.packed_shape((outputs, inputs))
        weight = tir.argument("weight", weight_shape, widest.weight_dtype)
        scale = tir.argument("scale", (outputs,), "float32") if scaled else None
        y = tir.argument("y", (tokens, outputs), "float32")

        def choose(remaining: Sequence[tuple[int, Arithmetic]]) -> None:
            (limit, arithmetic), *rest = remaining
            call = _Call(arithmetic, inputs, outputs, x, weight, scale, y)
            if rest:
                tir.when(tokens <= limit, lambda: call.all_groups(tokens), lambda: choose(rest))
            else:
                call.all_groups(tokens)

        choose(choices)
    return tir.Kernel(name, builder.get())
