"""Every source of rows in every format of the linear kernels.

The float32 rows are compared with float64; every other format must then hold exactly those rows, rounded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from compiled_kernels import TARGETS, Array, call, with_threads
from linear_reference import Prepared, prepare

from vamc_compiler.kernels.activations import (
    BFLOAT16,
    FLOAT32,
    FLOAT32_AND_BFLOAT16,
    FLOAT32_ROWS,
    Format,
    Lookup,
    RMSNorm,
    SiluMul,
    Source,
    Tensor,
    row_kernel,
)
from vamc_compiler.kernels.dot_int8 import DIGITS_8, DIGITS_16, WHOLE_8, WHOLE_16
from vamc_compiler.weights.shards import to_bfloat16

FORMATS = [FLOAT32, FLOAT32_ROWS, BFLOAT16, FLOAT32_AND_BFLOAT16, DIGITS_8, DIGITS_16, WHOLE_8, WHOLE_16]
EPSILON = 1e-5
WIDTH = 77
TOKENS = 6
ENTRIES = 9
UNIT = 2.0**-24


@dataclass(frozen=True)
class Given:
    """Inputs of a kernel, the rows that it should compute in float64, and its own outputs before them."""

    inputs: list[Array]
    rows: Array
    bound: Array
    own: tuple[Array, ...] = ()


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(n: int, w: int) -> Given:
    x = random(n, w)
    return Given([x], x.astype(np.float64), np.zeros((n, w)))


def lookup(dtype: str, n: int, w: int) -> Given:
    """Ids beyond either end take the nearest row."""
    floats = random(ENTRIES, w)
    table = floats.astype(np.float16) if dtype == "float16" else to_bfloat16(floats)
    ids = np.resize(np.array([3, ENTRIES + 4, 0, -2, ENTRIES - 1, 2**31 - 1, -(2**31)], np.int32), n)
    values = table.astype(np.float64) if dtype == "float16" else (table.astype(np.uint32) << 16).view(np.float32)
    rows = values[np.clip(ids, 0, ENTRIES - 1)].astype(np.float64)
    return Given([ids, table], rows, np.zeros((n, w)))


def norm(residual: bool, n: int, w: int) -> Given:
    x, added, weight = random(n, w), random(n, w, seed=1), random(w, seed=2)
    stream = x + added if residual else x
    exact = stream.astype(np.float64)
    rows = exact / np.sqrt((exact**2).mean(1, keepdims=True) + EPSILON) * weight
    # 16 partial sums, then those one after the other; the root and two products.
    bound = UNIT * (w / 16 + 16 + 8) * np.abs(rows)
    return Given([x, added, weight] if residual else [x, weight], rows, bound, (stream,) * residual)


def silu_mul(n: int, w: int) -> Given:
    gate, up = 6 * random(n, w), random(n, w, seed=1)
    gate[0, : min(w, 4)] = np.array([0, -0.0, 90, -90])[: min(w, 4)]
    rows = gate / (1 + np.exp(-gate.astype(np.float64))) * up
    return Given([gate, up], rows, UNIT * 12 * np.abs(rows) + 2 * np.abs(up) * 1e-36)


SOURCES: dict[str, tuple[Source, Any]] = {
    "tensor": (Tensor(), tensor),
    "embedding of float16": (Lookup(ENTRIES, "float16"), lambda n, w: lookup("float16", n, w)),
    "embedding of bfloat16": (Lookup(ENTRIES, "uint16"), lambda n, w: lookup("uint16", n, w)),
    "norm": (RMSNorm(EPSILON, residual=False), lambda n, w: norm(False, n, w)),
    "addition and norm": (RMSNorm(EPSILON, residual=True), lambda n, w: norm(True, n, w)),
    "silu": (SiluMul(), silu_mul),
}


def run(source: Source, form: Format, given: Given, mcpu: str) -> tuple[list[Array], list[Array]]:
    """The source's own outputs, and the tensors of the format."""
    n, w = given.rows.shape
    own = [(array.shape, np.float32) for array in given.own]
    outputs = [(tuple(map(int, shape)), np.dtype(dtype)) for shape, dtype in form.tensors(n, w)]
    found = call(row_kernel(source, form, w), mcpu, given.inputs, [*own, *outputs])
    return found[: len(own)], found[len(own) :]


def check_format(form: Format, found: list[Array], rows: Array) -> None:
    """What linear kernels read of the tensors is what they should; the rest may be anything."""
    expected: Prepared = prepare(form, rows)
    width = rows.shape[1]
    for index, (tensor, wanted) in enumerate(zip(found, expected.tensors, strict=True)):
        assert tensor.shape == wanted.shape and tensor.dtype == wanted.dtype
        used = width + width % 2 if tensor.dtype == np.uint16 else width
        cut = (slice(None),) if tensor.ndim == 1 else (..., slice(used))
        np.testing.assert_array_equal(tensor[cut], wanted[cut], err_msg=f"{form.name}, tensor {index}")


def check(name: str, form: Format, n: int, w: int, mcpu: str) -> None:
    source, make = SOURCES[name]
    given = make(n, w)
    own, (plain,) = run(source, FLOAT32, given, mcpu)
    assert (np.abs(plain - given.rows) <= given.bound).all()
    for array, wanted in zip(own, given.own, strict=True):
        np.testing.assert_array_equal(array, wanted)
    own_again, found = run(source, form, given, mcpu)
    for array, wanted in zip(own_again, given.own, strict=True):
        np.testing.assert_array_equal(array, wanted)
    check_format(form, found, plain)


each_source = pytest.mark.parametrize("name", SOURCES)
each_format = pytest.mark.parametrize("form", FORMATS, ids=[form.name for form in FORMATS])


@each_source
@each_format
def test_every_source_in_every_format(name: str, form: Format) -> None:
    for tokens in (1, TOKENS):
        check(name, form, tokens, WIDTH, "host")


@pytest.mark.parametrize("width", [1, 16, 130])
@pytest.mark.parametrize("form", [FLOAT32_AND_BFLOAT16, DIGITS_16], ids=["bfloat16", "digits"])
def test_widths(width: int, form: Format) -> None:
    check("addition and norm", form, TOKENS, width, "host")


@pytest.mark.parametrize(("name", "form"), [("tensor", WHOLE_16), ("norm", WHOLE_8), ("silu", FLOAT32_ROWS)])
def test_on_the_lowest_level(name: str, form: Format) -> None:
    check(name, form, TOKENS, WIDTH, TARGETS[1])


@pytest.mark.parametrize("form", [form for form in FORMATS if form.levels], ids=lambda form: form.name)
def test_rows_of_any_size(form: Format) -> None:
    """A row without a value that a scale could be made of counts as zero."""
    x = random(8, WIDTH)
    x *= (
        np.array([0, 1e-40, 1e-31, 0.9e-30, 1.5e-30, 1e-10, 1e10, 1e37], np.float32)[:, None]
        / np.abs(x).max(1)[:, None]
    )
    _, (main, scale) = run(Tensor(), form, Given([x], x, x), "host")
    check_format(form, [main, scale], x)
    assert not scale[:4].any() and scale[4:].all()


def test_ties_go_to_the_even_number() -> None:
    x = np.zeros((1, WIDTH), np.float32)
    x[0, :8] = [127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -127]
    _, (main, scale) = run(Tensor(), WHOLE_8, Given([x], x, x), "host")
    assert scale.tolist() == [1.0] and main[0, 0, :8].tolist() == [127, 0, 2, 2, 0, -2, -2, -127]


def test_two_entries_of_a_norm_do_not_mix() -> None:
    """A row alone gives the bits that it gives among others."""
    source, make = SOURCES["addition and norm"]
    given = make(TOKENS, WIDTH)
    own, found = run(source, DIGITS_16, given, "host")
    for row in range(TOKENS):
        x, added, weight = given.inputs
        alone = Given(
            [x[row : row + 1], added[row : row + 1], weight], given.rows[row : row + 1], given.bound, (x[:1],)
        )
        own_alone, found_alone = run(source, DIGITS_16, alone, "host")
        np.testing.assert_array_equal(own_alone[0][0], own[0][row])
        for one, among in zip(found_alone, found, strict=True):
            width = (..., slice(WIDTH)) if one.ndim == 3 else (...,)
            np.testing.assert_array_equal(one[0][width], among[row][width])


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_two_threads_equal_one() -> None:
    """Scratch memory belongs to a thread."""
    source, make = SOURCES["silu"]
    given = make(301, WIDTH)
    _, expected = with_threads(1, lambda: run(source, DIGITS_16, given, "host"))
    for _own, found in with_threads(2, lambda: [run(source, DIGITS_16, given, "host") for _ in range(10)]):
        for one, other in zip(found, expected, strict=True):
            width = (..., slice(WIDTH)) if one.ndim == 3 else (...,)
            np.testing.assert_array_equal(one[width], other[width])
