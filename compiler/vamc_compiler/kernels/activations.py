"""The forms in which linear kernels take their input, and the kernels that bring a tensor into one.

Dimension letters: n tokens, w width of a row. A row is whatever one token has. Kernels here work row by row: what
computes the row (a plain tensor, RMSNorm, SiLU times up) is a `Source`, what stores it is a `Format`; any pair makes a
kernel, so that quantization costs no pass of its own over memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vamc_compiler.kernels import tir, vector_math
from vamc_compiler.kernels.tir import LANES, Buffer, Expr, Registers, bits, cast, load, splat, store

CACHE_LINE_BYTES = 64
_BYTES = {"uint8": 1, "int16": 2, "uint16": 2, "float32": 4}
SMALLEST_SCALED = 1e-30
"""A row whose largest value is below this counts as zero: its scale would not be a normal float."""


@dataclass(frozen=True)
class Format:
    """How a row of floats is handed to a linear kernel.

    `levels` > 0 quantizes: value = whole number * scale of the row, whole numbers up to `levels` either way. `uint8`
    planes hold the digits of the number + offset in base 256, the highest first: the dot product instructions take
    unsigned bytes, and the offset is taken out again with the sums of the weight's rows.
    """

    name: str
    dtype: str = "float32"
    planes: int = 1
    levels: int = 0
    keeps_float: bool = False
    """The float32 row is handed over as well, before the others."""
    plain: bool = False
    """The tensor as it is, [n, w]: nothing to prepare."""

    @property
    def offset(self) -> int:
        """Added to a whole number to make it non-negative; 0 where numbers are stored signed."""
        return 256**self.planes // 2 if self.dtype == "uint8" else 0

    @staticmethod
    def stride(width: int, dtype: str) -> int:
        """Elements from plane to plane: an odd number of cache lines, so that rows fall into different cache sets."""
        line = CACHE_LINE_BYTES // _BYTES[dtype]
        return (-(-width // line) | 1) * line

    def tensors(self, tokens: Expr, width: int) -> list[tuple[tuple[Any, ...], str]]:
        """Shape and dtype of every tensor of a prepared input."""
        if self.plain:
            return [((tokens, width), "float32")]
        float_row = [((tokens, 1, self.stride(width, "float32")), "float32")] if self.keeps_float else []
        main = ((tokens, self.planes, self.stride(width, self.dtype)), self.dtype)
        return [*float_row, main, *([((tokens,), "float32")] if self.levels else [])]


FLOAT32 = Format("float32", plain=True)
FLOAT32_ROWS = Format("float32_rows")
BFLOAT16 = Format("bfloat16", "uint16")
FLOAT32_AND_BFLOAT16 = Format("float32_bfloat16", "uint16", keeps_float=True)


Row = Callable[[Expr, int], Expr]
"""(index, lanes) -> that many values of a row from the index on."""


class Source(Protocol):
    """What computes the rows; equal sources make one kernel."""

    def __hash__(self) -> int: ...

    @property
    def name(self) -> str:
        """The kernel's name begins with it."""

    def open(self, tokens: Expr, width: int) -> Callable[[Expr], Row]:
        """Declare the arguments, inputs first; the function returned emits what a row needs before it is read."""


def over_row(width: int, body: Callable[[Expr, int], None]) -> None:
    """Run `body(index, lanes)` over a row: whole vectors, then single elements."""
    whole = width // LANES * LANES
    if whole:
        with tir.serial(0, whole // LANES) as vector:
            body(vector * LANES, LANES)
    if width > whole:
        with tir.serial(whole, width) as index:
            body(index, 1)


class RowReduction:
    """Folds the values of a row into one number: a vector of partial results, and one for the row's odd end."""

    def __init__(self, combine: Callable[[Expr, Expr], Expr]) -> None:
        self._combine = combine
        self._vector, self._rest = Registers(1), Registers(1, lanes=1)
        self._vector[0] = splat(0.0)
        self._rest[0] = splat(0.0, lanes=1)

    def add(self, value: Expr, lanes: int) -> None:
        """Take values in; 0 is the neutral element."""
        target = self._vector if lanes == LANES else self._rest
        target[0] = self._combine(target[0], value)

    def result(self) -> Expr:
        """The number; emits the last additions."""
        for lane in range(LANES):
            self._rest[0] = self._combine(self._rest[0], self._vector.lane(0, lane))
        return self._rest[0]


@dataclass(frozen=True)
class Tensor:
    """Rows that exist already: x float32 [n, w]."""

    name: str = "prepare"

    def open(self, tokens: Expr, width: int) -> Callable[[Expr], Row]:
        """See `Source.open`."""
        x = tir.argument("x", (tokens, width), "float32")
        return lambda row: lambda index, lanes: load(x, row, index, lanes=lanes)


@dataclass(frozen=True)
class Lookup:
    """Rows of a table of `entries` rows, 16-bit floats, chosen by ids int32 [n]."""

    entries: int
    dtype: str
    """float16, or uint16 for the bits of bfloat16."""

    @property
    def name(self) -> str:
        """See `Source.name`."""
        return f"embedding_{self.dtype}"

    def open(self, tokens: Expr, width: int) -> Callable[[Expr], Row]:
        """See `Source.open`."""
        ids = tir.argument("ids", (tokens,), "int32")
        table = tir.argument("table", (self.entries, width), self.dtype)

        def begin(row: Expr) -> Row:
            entry = tir.opaque(tir.larger(tir.smaller(cast(ids[row], "int64", 1), self.entries - 1), 0))

            def value(index: Expr, lanes: int) -> Expr:
                raw = load(table, entry, index, lanes=lanes)
                if self.dtype == "float16":
                    return cast(raw, "float32", lanes)
                return bits(cast(raw, "uint32", lanes) << splat(16, "uint32", lanes), "float32", lanes)

            return value

        return begin


@dataclass(frozen=True)
class RMSNorm:
    """Root-mean-square normalisation of x float32 [n, w], times weight float32 [w].

    With `residual`, x is first added to a second tensor, and the sum is an output: the stream of the model.
    """

    epsilon: float
    residual: bool

    @property
    def name(self) -> str:
        """See `Source.name`."""
        return "add_rms_norm" if self.residual else "rms_norm"

    def open(self, tokens: Expr, width: int) -> Callable[[Expr], Row]:
        """See `Source.open`."""
        x = tir.argument("x", (tokens, width), "float32")
        added = tir.argument("added", (tokens, width), "float32") if self.residual else None
        weight = tir.argument("weight", (width,), "float32")
        stream = tir.argument("sum", (tokens, width), "float32") if self.residual else x

        def begin(row: Expr) -> Row:
            squares = RowReduction(lambda total, value: total + value)

            def add(index: Expr, lanes: int) -> None:
                value = load(x, row, index, lanes=lanes)
                if added is not None:
                    value = value + load(added, row, index, lanes=lanes)
                    store(stream, value, row, index, lanes=lanes)
                    value = load(stream, row, index, lanes=lanes)
                squares.add(value * value, lanes)

            over_row(width, add)
            factor = tir.variable(tir.rsqrt(squares.result() / width + self.epsilon), "float32")
            return lambda index, lanes: (
                load(stream, row, index, lanes=lanes) * splat(factor[0], lanes=lanes) * load(weight, index, lanes=lanes)
            )

        return begin


@dataclass(frozen=True)
class SiluMul:
    """gate * sigmoid(gate) * up, both float32 [n, w]."""

    name: str = "silu_mul"

    def open(self, tokens: Expr, width: int) -> Callable[[Expr], Row]:
        """See `Source.open`."""
        gate = tir.argument("gate", (tokens, width), "float32")
        up = tir.argument("up", (tokens, width), "float32")

        def begin(row: Expr) -> Row:
            def value(index: Expr, lanes: int) -> Expr:
                g = load(gate, row, index, lanes=lanes)
                gated = g / (splat(1.0, lanes=lanes) + vector_math.exp(splat(0.0, lanes=lanes) - g, lanes))
                return gated * load(up, row, index, lanes=lanes)

            return value

        return begin


def _store_row(form: Format, width: int, row: Expr, value: Row, outputs: Sequence[Buffer], top: Expr | None) -> None:
    """Write one row in a format; its own largest magnitude scales it unless `top` is given."""
    if form.dtype == "float32":
        place = (row,) if form.plain else (row, 0)
        over_row(width, lambda index, lanes: store(outputs[0], value(index, lanes), *place, index, lanes=lanes))
        return
    if form.levels:
        if top is None:
            exact = tir.scratch((width,), "float32")
            top = _largest_magnitude(width, value, exact)
            value = functools.partial(_part_of, exact)
        _store_quantized(form, width, row, value, outputs, top)
        return
    main = outputs[1 if form.keeps_float else 0]

    def round_off(index: Expr, lanes: int) -> None:
        exact = value(index, lanes)
        if form.keeps_float:
            store(outputs[0], exact, row, 0, index, lanes=lanes)
            exact = load(outputs[0], row, 0, index, lanes=lanes)
        store(main, vector_math.to_bfloat16(exact, lanes), row, 0, index, lanes=lanes)

    over_row(width, round_off)
    if width % 2:  # the partner of the last value in a pair: the weight there is 0, and 0 times garbage may be NaN
        store(main, tir.constant(0, "uint16"), row, 0, width, lanes=1)


def _part_of(row: Buffer, index: Expr, lanes: int) -> Expr:
    """Values of a row that lies in a buffer of its own."""
    return load(row, index, lanes=lanes)


def _largest_magnitude(width: int, value: Row, kept: Buffer) -> Expr:
    """The largest magnitude in a row, which is written to `kept` on the way: it may cost much to compute."""
    largest = RowReduction(tir.larger)

    def measure(index: Expr, lanes: int) -> None:
        store(kept, value(index, lanes), index, lanes=lanes)
        largest.add(tir.absolute(load(kept, index, lanes=lanes)), lanes)

    over_row(width, measure)
    return largest.result()


def _store_quantized(form: Format, width: int, row: Expr, value: Row, outputs: Sequence[Buffer], limit: Expr) -> None:
    """Write one row as whole numbers and their scale; no magnitude in the row exceeds `limit`."""
    numbers, scale = outputs
    top = tir.variable(limit, "float32")
    scaled = top[0] > SMALLEST_SCALED
    inverse = tir.variable(tir.select(scaled, form.levels / top[0], tir.constant(0.0)), "float32")
    store(scale, tir.select(scaled, top[0] / form.levels, tir.constant(0.0)), row, lanes=1)

    def quantize(index: Expr, lanes: int) -> None:
        number = vector_math.nearest(value(index, lanes) * splat(inverse[0], lanes=lanes), lanes)
        if form.dtype == "int16":
            store(numbers, cast(number, "int16", lanes), row, 0, index, lanes=lanes)
            return
        number = number + splat(form.offset, "int32", lanes)
        for plane in range(form.planes):
            digit = number >> splat(8 * (form.planes - 1 - plane), "int32", lanes)
            store(numbers, cast(digit & splat(255, "int32", lanes), "uint8", lanes), row, plane, index, lanes=lanes)

    over_row(width, quantize)


def _every_row(tokens: Expr, one_row: Callable[[Expr], None]) -> None:
    """Deal the rows to the threads; a single one waits for none."""

    def all_rows() -> None:
        with tir.parallel(0, tokens) as row:
            one_row(row)

    tir.when(tokens == 1, lambda: one_row(tir.constant(0, "int64")), all_rows)


@functools.cache
def row_kernel(source: Source, form: Format, width: int, top_given: bool = False) -> tir.Kernel:
    """The kernel that brings the rows of `source`, `width` wide, into `form`; every thread takes some of the rows.

    With `top_given` the last input is top float32 [n, 1], which scales each row instead of its largest magnitude.
    """
    name = f"{source.name}{'_by_top' if top_given else ''}_{form.name}_{width}"
    with tir.function(name) as builder:
        tokens = tir.size()
        begin = source.open(tokens, width)
        top = tir.argument("top", (tokens, 1), "float32") if top_given else None
        outputs = [
            tir.argument(f"output_{i}", shape, dtype) for i, (shape, dtype) in enumerate(form.tensors(tokens, width))
        ]
        _every_row(
            tokens,
            lambda row: _store_row(form, width, row, begin(row), outputs, None if top is None else top[row, 0]),
        )
    return tir.Kernel(name, builder.get())


@functools.cache
def row_max_kernel(width: int) -> tir.Kernel:
    """The kernel of the largest magnitude, float32 [n, 1], in each row of x float32 [n, w]."""
    name = f"row_max_{width}"
    with tir.function(name) as builder:
        tokens = tir.size()
        begin = Tensor().open(tokens, width)
        top = tir.argument("top", (tokens, 1), "float32")

        def one_row(row: Expr) -> None:
            value, largest = begin(row), RowReduction(tir.larger)
            over_row(width, lambda index, lanes: largest.add(tir.absolute(value(index, lanes)), lanes))
            store(top, largest.result(), row, 0, lanes=1)

        _every_row(tokens, one_row)
    return tir.Kernel(name, builder.get())
