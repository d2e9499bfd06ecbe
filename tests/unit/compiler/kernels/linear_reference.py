"""What linear kernels compute, in whole numbers and float64, and how far float32 arithmetic may be from it.

Dimension letters: n tokens, o outputs, i inputs. `UNIT` is the relative error of one float32 rounding; a bound is the
sum of the roundings that an arithmetic makes, each at the size of what is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_compiler.kernels.activations import Format
from vamc_compiler.kernels.dot_bf16 import BFloat16Dot, HalfToBFloat16Dot
from vamc_compiler.kernels.dot_float import BLOCK_INPUTS
from vamc_compiler.kernels.dot_int8 import FLUSH_QUADS, Pairs, Vnni
from vamc_compiler.kernels.linear import Arithmetic
from vamc_compiler.weights.shards import to_bfloat16

Array = npt.NDArray[Any]
UNIT = 2.0**-24
SMALLEST_FLOAT = 2.0**-149
SMALLEST_SCALED = np.float32(1e-30)
GARBAGE = 0xFF


def from_bfloat16(patterns: Array) -> Array:
    """float32 of the bits of bfloat16."""
    return (patterns.astype(np.uint32) << 16).view(np.float32)


@dataclass(frozen=True)
class Prepared:
    """An input in some format."""

    form: Format
    exact: Array
    """float32 [n, i]"""
    tensors: list[Array]
    """As the kernels take it; what lies beyond the width is garbage."""
    numbers: Array
    """int64 [n, i] where the format quantizes."""
    scale: Array
    """float32 [n] likewise"""

    def first(self, tokens: int) -> Prepared:
        """Some of the tokens."""
        tensors = [tensor[:tokens] for tensor in self.tensors]
        return Prepared(self.form, self.exact[:tokens], tensors, self.numbers[:tokens], self.scale[:tokens])


def quantized(x: Array, levels: int) -> tuple[Array, Array]:
    """Whole numbers int64 [n, i] and their scale float32 [n], in the arithmetic that `Format` describes."""
    top = np.abs(x).max(axis=1)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(top > SMALLEST_SCALED, np.float32(levels) / top, np.float32(0))
    scale = np.where(top > SMALLEST_SCALED, top / np.float32(levels), np.float32(0))
    return np.rint(x * inverse[:, None]).astype(np.int64), scale.astype(np.float32)


def prepare_numbers(form: Format, numbers: Array, scale: Array) -> Prepared:
    """Given whole numbers as an input."""
    n, i = numbers.shape
    main = np.full((n, form.planes, form.stride(i, form.dtype)), GARBAGE, np.dtype(form.dtype))
    shifted = numbers + form.offset
    for plane in range(form.planes):
        digits = shifted >> (8 * (form.planes - 1 - plane))
        main[:, plane, :i] = digits & 255 if form.dtype == "uint8" else digits
    exact = (numbers * scale[:, None].astype(np.float64)).astype(np.float32)
    return Prepared(form, exact, [main, scale], numbers, scale)


def prepare(form: Format, x: Array) -> Prepared:
    """x float32 [n, i] in a format."""
    n, i = x.shape
    nothing = np.zeros((n, 0))
    if form.plain:
        return Prepared(form, x, [x], nothing, nothing)
    floats = np.full((n, 1, form.stride(i, "float32")), np.nan, np.float32)
    floats[:, 0, :i] = x
    if form.dtype == "float32":
        return Prepared(form, x, [floats], nothing, nothing)
    if form.levels:
        prepared = prepare_numbers(form, *quantized(x, form.levels))
        return Prepared(form, x, prepared.tensors, prepared.numbers, prepared.scale)
    main = np.full((n, 1, form.stride(i, form.dtype)), np.uint16(0xFFFF), np.uint16)
    main[:, 0, :i] = to_bfloat16(x)
    main[:, 0, i : i + i % 2] = 0
    return Prepared(form, x, [floats, main] if form.keeps_float else [main], nothing, nothing)


def expected(arithmetic: Arithmetic, x: Prepared, weight: Array, scale: Array | None) -> tuple[Array, Array]:
    """y float64 [n, o] of the prepared x and stored weight [o, i], and the bound on each element's error."""
    if isinstance(arithmetic, (Vnni, Pairs)):
        assert scale is not None
        y, bound = _of_whole_numbers(arithmetic, x, weight.astype(np.int64))
        factor = x.scale[:, None].astype(np.float64) * scale.astype(np.float64)
        # Two more roundings: times the token's scale, times the weight's.
        return y * factor, (bound + 2 * UNIT * np.abs(y)) * factor * (1 + 1e-5) + 2 * SMALLEST_FLOAT
    inputs = weight.shape[1]
    values = x.exact
    if isinstance(arithmetic, BFloat16Dot):
        values = from_bfloat16(to_bfloat16(values))
        if isinstance(arithmetic, HalfToBFloat16Dot):
            weight = to_bfloat16(weight.astype(np.float32))
        roundings = inputs + inputs % 2
    else:
        roundings = min(inputs, BLOCK_INPUTS) + -(-inputs // BLOCK_INPUTS)
    floats = (from_bfloat16(weight) if weight.dtype == np.uint16 else weight).astype(np.float64)
    magnitude = np.abs(values).astype(np.float64) @ np.abs(floats).T
    # vdpbf16ps takes a subnormal result for zero, everything else rounds it.
    lost = np.finfo(np.float32).tiny if isinstance(arithmetic, BFloat16Dot) else SMALLEST_FLOAT
    return values.astype(np.float64) @ floats.T, roundings * (UNIT * magnitude + lost)


def _of_whole_numbers(arithmetic: Vnni | Pairs, x: Prepared, weight: Array) -> tuple[Array, Array]:
    """Sums of products, and the bound on their error before scales."""
    total = (x.numbers @ weight.T).astype(np.float64)
    if isinstance(arithmetic, Vnni):
        if x.form.planes == 1:
            return total, UNIT * np.abs(total)
        shifted = x.numbers + x.form.offset
        high, low = ((shifted >> 8) - 128) @ weight.T, (shifted & 255) @ weight.T
        return total, UNIT * (256.0 * np.abs(high) + np.abs(low) + np.abs(total))
    so_far, bound = np.zeros(total.shape), np.zeros(total.shape)
    for begin in range(0, weight.shape[1], 4 * FLUSH_QUADS):
        part = slice(begin, begin + 4 * FLUSH_QUADS)
        flushed = x.numbers[:, part] @ weight[:, part].T
        assert np.abs(flushed).max() < 2**31, "a flush comes before int32 overflows"
        so_far = so_far + flushed
        bound += UNIT * (np.abs(flushed) + np.abs(so_far))
    return total, bound
