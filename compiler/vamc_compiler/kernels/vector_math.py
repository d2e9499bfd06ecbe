"""Elementary functions over vectors of floats: LLVM would call libm once per element."""

from __future__ import annotations

import math

import tvm.script.ir_builder.tirx as ir

from vamc_compiler.kernels import tir
from vamc_compiler.kernels.tir import LANES, Expr, bits, cast, splat

# exp(r) on |r| <= ln(2) / 2 by its Taylor series: the term left out is below 2e-9 of the result.
_EXP_TERMS = [1.0 / math.factorial(power) for power in range(8)]
_LN2_HIGH = 0.693359375  # few enough bits that a multiple of it is exact
_LN2_LOW = math.log(2.0) - _LN2_HIGH
_SMALLEST, _LARGEST = -87.0, 88.0


def exp(x: Expr, lanes: int = LANES) -> Expr:
    """e ** x, within 2 units in the last place; 0 below -87 (a masked score gives exactly nothing), capped at 88."""
    clamped = tir.larger(tir.smaller(x, splat(_LARGEST, lanes=lanes)), splat(_SMALLEST, lanes=lanes))
    turns = ir.nearbyint(clamped * splat(1.0 / math.log(2.0), lanes=lanes))
    rest = clamped - turns * splat(_LN2_HIGH, lanes=lanes) - turns * splat(_LN2_LOW, lanes=lanes)
    result = splat(_EXP_TERMS[-1], lanes=lanes)
    for term in reversed(_EXP_TERMS[:-1]):
        result = result * rest + splat(term, lanes=lanes)
    exponent = cast(turns, "int32", lanes) + splat(127, "int32", lanes)
    power = bits(exponent << splat(23, "int32", lanes), "float32", lanes)
    return tir.select(x < splat(_SMALLEST, lanes=lanes), splat(0.0, lanes=lanes), result * power)


def nearest(x: Expr, lanes: int = LANES) -> Expr:
    """The nearest whole number as int32, ties to even."""
    return cast(ir.nearbyint(x), "int32", lanes)


def to_bfloat16(x: Expr, lanes: int = LANES) -> Expr:
    """The nearest bfloat16 as its 16 bits, ties to even; infinities stay, a NaN stays a NaN."""
    pattern = bits(x, "uint32", lanes)
    odd = (pattern >> splat(16, "uint32", lanes)) & splat(1, "uint32", lanes)
    rounded = (pattern + splat(0x7FFF, "uint32", lanes) + odd) >> splat(16, "uint32", lanes)
    quiet = (pattern >> splat(16, "uint32", lanes)) | splat(0x40, "uint32", lanes)
    # Not x == x: TVM takes that for true (apache-tvm 0.27).
    return cast(tir.select(ir.isnan(x), quiet, rounded), "uint16", lanes)
