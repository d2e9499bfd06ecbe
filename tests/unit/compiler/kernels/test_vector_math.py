"""The elementary functions, in vectors and one by one, over whole ranges of floats."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from compiled_kernels import TARGETS, Array, call

from vamc_compiler.kernels import tir, vector_math
from vamc_compiler.weights.shards import to_bfloat16

LANES = (1, tir.LANES)
COUNT = 1 << 17

each_machine = pytest.mark.parametrize("mcpu", TARGETS)
each_width = pytest.mark.parametrize("lanes", LANES)


@cache
def kernel(function: Callable[..., Any], dtype: str, lanes: int) -> tir.Kernel:
    """Applies a function of float32 to `COUNT` numbers."""
    name = f"{function.__name__}_{lanes}"
    with tir.function(name) as builder:
        x = tir.argument("x", (COUNT,), "float32")
        y = tir.argument("y", (COUNT,), dtype)
        with tir.serial(0, COUNT // lanes) as step:
            tir.store(y, function(tir.load(x, step * lanes, lanes=lanes), lanes), step * lanes, lanes=lanes)
    return tir.Kernel(name, builder.get())


def apply(function: Callable[..., Any], dtype: str, lanes: int, mcpu: str, x: Array) -> Array:
    assert len(x) <= COUNT
    return call(kernel(function, dtype, lanes), mcpu, [np.resize(x, COUNT)], [((COUNT,), np.dtype(dtype))])[0][: len(x)]


@each_machine
@each_width
def test_exp(lanes: int, mcpu: str) -> None:
    """Within 2 units in the last place from -87 to 88; nothing below, the largest value above."""
    x = np.concatenate((np.linspace(-87, 88, COUNT - 300), np.linspace(-1e-6, 1e-6, 299), [0])).astype(np.float32)
    found = apply(vector_math.exp, "float32", lanes, mcpu, x)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(found - exact) <= 2 * np.spacing(exact.astype(np.float32))).all()
    assert found[-1] == 1
    below = np.array([-87.00001, -100, -1e4, -3e38, -np.inf], np.float32)
    assert not apply(vector_math.exp, "float32", lanes, mcpu, below).any()
    above = np.array([88, 89, 1e4, 3e38, np.inf], np.float32)
    capped = apply(vector_math.exp, "float32", lanes, mcpu, above)
    assert (capped == capped[0]).all() and np.isfinite(capped).all()


@each_machine
@each_width
def test_nearest(lanes: int, mcpu: str) -> None:
    halves = np.arange(-60000, 60000, dtype=np.float32) / 2
    x = np.concatenate((halves, np.nextafter(halves[:999], np.float32(0)), [-0.0, 1e-40, 2**31 - 128, -(2.0**31)]))
    x = x.astype(np.float32)
    found = apply(vector_math.nearest, "int32", lanes, mcpu, x)
    np.testing.assert_array_equal(found, np.rint(x).astype(np.int64))


@each_machine
@each_width
def test_to_bfloat16(lanes: int, mcpu: str) -> None:
    """Every bfloat16 stays; between two of them the nearer, the even one of a tie; no NaN becomes a number."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        x = (upper | np.uint32(lower)).view(np.float32)
        found = apply(vector_math.to_bfloat16, "uint16", lanes, mcpu, x)
        nan = np.isnan(x)
        np.testing.assert_array_equal(found[~nan], to_bfloat16(x[~nan]))
        assert (found[nan] & 0x7FFF > 0x7F80).all()
        assert (found[np.isinf(x)] == (x[np.isinf(x)].view(np.uint32) >> 16)).all()
        np.testing.assert_array_equal(found[nan] >> 15, x[nan].view(np.uint32) >> 31, "the sign stays")
