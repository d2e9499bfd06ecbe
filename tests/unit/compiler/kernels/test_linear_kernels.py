"""Every arithmetic of the linear kernels against whole numbers and float64, on sizes that fit no tile."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from compiled_kernels import Array, call, require, table, with_threads
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_reference import Prepared, expected, prepare, prepare_numbers

from vamc_compiler.kernels.dot_float import HalfFma
from vamc_compiler.kernels.dot_int8 import DIGITS_8, DIGITS_16, Pairs, Vnni
from vamc_compiler.kernels.linear import linear_kernel
from vamc_compiler.kernels.table import SMALL_BATCH, Choices
from vamc_compiler.weights.shards import to_bfloat16
from vamc_runtime.errors import UserError


@dataclass(frozen=True)
class Variant:
    """One row of the kernel table on one CPU."""

    mcpu: str
    op: str
    weight_dtype: str
    prefill: bool = False
    """`prefill_precision: bf16`."""

    def __str__(self) -> str:
        return f"{self.mcpu} {self.op} {self.weight_dtype}" + " bf16 prefill" * self.prefill

    @property
    def choices(self) -> Choices:
        return table(self.mcpu, bfloat16_prefill=self.prefill).linear(self.op, self.weight_dtype)


OPS = [
    ("Linear", "float16"),
    ("Linear", "bfloat16"),
    ("QuantizedLinearPerChannel", "int8"),
    ("QuantizedLinearDynamic", "int8"),
]
VARIANTS = [
    *(Variant(mcpu, op, dtype) for mcpu in ("x86-64-v3", "x86-64-v4") for op, dtype in OPS[:3]),
    *(Variant("znver4", op, dtype) for op, dtype in OPS[1:]),
    Variant("znver4", "Linear", "float16", prefill=True),
]
"""Every arithmetic once: see `test_what_is_left_out`."""
QUANTIZED = [variant for variant in VARIANTS if variant.weight_dtype == "int8"]
SMALL, LARGE = (63, 77), (250, 1030)
SIZES = [(1, 1), (17, 5), SMALL, (80, 130), LARGE]
"""Outputs and inputs of the layers; most tests use two of them, as every other size is another compilation."""
TOKENS = [1, 2, 3, 4, 5, 7, 8, 12, 13, 16, 17, 33, 100]

each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def random_weight(rng: np.random.Generator, variant: Variant, o: int, i: int) -> tuple[Array, Array | None]:
    """A weight as it is stored, before packing, and its scale."""
    if variant.weight_dtype == "int8":
        return rng.integers(-127, 128, (o, i)).astype(np.int8), np.exp(rng.uniform(-9, 0, o)).astype(np.float32)
    weight = rng.standard_normal((o, i)).astype(np.float32)
    return (weight.astype(np.float16) if variant.weight_dtype == "float16" else to_bfloat16(weight)), None


def run(variant: Variant, x: Prepared, weight: Array, scale: Array | None) -> Array:
    """y float32 [n, o]."""
    choices = variant.choices
    o, i = weight.shape
    kernel = linear_kernel(choices, i, o, scale is not None)
    inputs = [*x.tensors, choices[0][1].packing.pack(weight), *([] if scale is None else [scale])]
    return call(kernel, variant.mcpu, inputs, [((len(x.exact), o), np.float32)])[0]


def prepared(variant: Variant, x: Array) -> Prepared:
    return prepare(variant.choices[-1][1].form, x)


def check(variant: Variant, x: Prepared, weight: Array, scale: Array | None) -> Array:
    """Run, and compare with the reference of the arithmetic that is chosen for so many tokens."""
    found = run(variant, x, weight, scale)
    arithmetic = next(arithmetic for most, arithmetic in variant.choices if len(x.exact) <= most)
    y, bound = expected(arithmetic, x, weight, scale)
    wrong = np.argwhere(~(np.abs(found - y) <= bound))
    assert not len(wrong), f"{len(wrong)} values differ, the first at {wrong[0]}"
    return found


@each_variant
@pytest.mark.parametrize(("o", "i"), SIZES)
def test_any_size(variant: Variant, o: int, i: int) -> None:
    """Right for one number of tokens, and bit by bit the same whatever else is in the step."""
    rng = np.random.default_rng(o)
    weight, scale = random_weight(rng, variant, o, i)
    x = prepared(variant, rng.standard_normal((max(TOKENS), i)).astype(np.float32))
    together = check(variant, x, weight, scale)
    small = check(variant, x.first(SMALL_BATCH), weight, scale) if variant.prefill else together
    for tokens in TOKENS:
        same = small if tokens <= SMALL_BATCH else together
        np.testing.assert_array_equal(run(variant, x.first(tokens), weight, scale), same[:tokens])


@pytest.mark.parametrize("variant", QUANTIZED, ids=str)
def test_the_error_of_quantized_activations(variant: Variant) -> None:
    """Half a step per input at most, so sum |w| * scale / 2 however long the row; the 1.5 % are the step's rounding."""
    rng = np.random.default_rng(0)
    weight, scale = random_weight(rng, variant, *LARGE)
    assert scale is not None
    x = rng.standard_normal((33, 1030)).astype(np.float32)
    x[1] *= 1e-4
    x[2, 7] = 1e4  # an outlier costs the others their precision
    ready = prepared(variant, x)
    exact = x.astype(np.float64) @ (weight.astype(np.float64) * scale[:, None].astype(np.float64)).T
    half_step = 1.015 * ready.scale[:, None].astype(np.float64) / 2
    bound = half_step * np.abs(weight.astype(np.float64)).sum(1) * scale
    error = np.abs(run(variant, ready, weight, scale) - exact)
    assert (error <= bound).all()
    assert error.max() > bound.max() / 1000, "the bound is near"


@each_variant
def test_neighbours_do_not_matter(variant: Variant) -> None:
    """A token alone gives the same bits as anywhere in a step, wherever its tile begins."""
    rng = np.random.default_rng(5)
    weight, scale = random_weight(rng, variant, *SMALL)
    x = rng.standard_normal((13, SMALL[1])).astype(np.float32)
    together = run(variant, prepared(variant, x), weight, scale)
    for token in range(13):
        alone = run(variant, prepared(variant, x[token : token + 1]), weight, scale)
        np.testing.assert_array_equal(alone[0], together[token])


@each_variant
def test_every_weight_is_read_exactly(variant: Variant) -> None:
    """All 2^16 halves or 2^8 bytes, subnormals and both zeros among them, times one."""
    form = variant.choices[-1][1].form
    if variant.weight_dtype == "int8":
        weight: npt.NDArray[Any] = np.arange(-128, 128).astype(np.int8).reshape(16, 16)
        ones = prepare_numbers(form, np.eye(16, dtype=np.int64), np.ones(16, np.float32))
        found = run(variant, ones, weight, np.ones(16, np.float32))
        np.testing.assert_array_equal(found, weight.T)
        return
    pattern: npt.NDArray[Any] = np.arange(1 << 16, dtype=np.uint16)
    is_half = variant.weight_dtype == "float16"
    values = (
        pattern.view(np.float16).astype(np.float32) if is_half else (pattern.astype(np.uint32) << 16).view(np.float32)
    )
    pattern = np.where(np.isfinite(values), pattern, 0).reshape(-1, 16)
    values = np.where(np.isfinite(values), values, 0).reshape(-1, 16)
    weight = pattern.view(np.float16) if is_half else pattern
    tokens = 2 * SMALL_BATCH if variant.prefill else 16
    found = run(variant, prepare(form, np.resize(np.eye(16, dtype=np.float32), (tokens, 16))), weight, None)
    if variant.prefill:
        values = (to_bfloat16(values).astype(np.uint32) << 16).view(np.float32)
    if form.dtype == "uint16":  # vdpbf16ps takes subnormals as zero
        values = np.where(np.abs(values) < np.finfo(np.float32).tiny, 0, values)
    np.testing.assert_array_equal(found, np.resize(values.T, found.shape))


@each_variant
def test_zeros_stay_zero(variant: Variant) -> None:
    rng = np.random.default_rng(0)
    weight, scale = random_weight(rng, variant, *SMALL)
    x = rng.standard_normal((20, 77)).astype(np.float32)
    weight[[0, 16, 32]] = 0
    x[[0, 5, 19]] = 0
    found = check(variant, prepared(variant, x), weight, scale)
    assert not found[:, [0, 16, 32]].any() and not found[[0, 5, 19]].any()
    assert np.delete(np.delete(found, [0, 16, 32], 1), [0, 5, 19], 0).all()


@each_variant
@pytest.mark.parametrize("size", [1e-37, 1e-30, 1e-29, 1e30])
def test_extreme_inputs(variant: Variant, size: float) -> None:
    """Where a row is too small to have a scale it counts as zero; everything else keeps its relative precision."""
    rng = np.random.default_rng(1)
    weight, scale = random_weight(rng, variant, *SMALL)
    x = rng.uniform(0.5, 1, (9, 77)).astype(np.float32) * np.float32(size)
    found = check(variant, prepared(variant, x), weight, scale)
    if scale is not None and size <= 1e-30:
        assert not found.any()


@pytest.mark.parametrize("variant", QUANTIZED, ids=str)
def test_extreme_scales(variant: Variant) -> None:
    rng = np.random.default_rng(2)
    weight, _ = random_weight(rng, variant, *SMALL)
    x = prepared(variant, rng.standard_normal((9, 77)).astype(np.float32))
    for size in (1e-30, 1e-6, 1e6, 1e30):
        scale = np.full(SMALL[0], size, np.float32)
        scale[::2] = 1
        check(variant, x, weight, scale)


@pytest.mark.parametrize("variant", QUANTIZED, ids=str)
def test_saturation(variant: Variant) -> None:
    """Every product at its largest and all of one sign: a sum that were kept in int32 too long would turn over."""
    form, inputs = variant.choices[-1][1].form, 5000
    signs = np.array([1, -1])
    weight = np.broadcast_to(127 * signs[:, None], (2, inputs)).astype(np.int8)
    numbers = np.broadcast_to(form.levels * signs[:, None], (2, inputs)).astype(np.int64)
    scale = np.ones(2, np.float32)
    found = check(variant, prepare_numbers(form, numbers, scale), weight, scale)
    assert (np.sign(found) == np.outer(signs, signs)).all()


@pytest.mark.parametrize(("form", "digit"), [(DIGITS_8, 255), (DIGITS_16, 255)], ids=["8 bit", "16 bit"])
def test_the_longest_row_of_vnni(form: Any, digit: int) -> None:
    """At the bound, unsigned digits of 255 times 127 fill an int32; one input more is refused before compiling."""
    require("znver4")
    arithmetic = Vnni(form, rows=3)
    most = (2**31 - 1) // (255 * 127)
    kernel = linear_kernel(((1 << 62, arithmetic),), most, 2, True)
    weight = np.repeat(np.array([[127], [-127]], np.int8), most, 1)
    largest = np.full((1, most), form.offset - 1, np.int64)
    x = prepare_numbers(form, largest, np.ones(1, np.float32))
    ones = np.ones(2, np.float32)
    found = call(kernel, "znver4", [*x.tensors, arithmetic.packing.pack(weight), ones], [((1, 2), np.float32)])[0]
    y, bound = expected(arithmetic, x, weight, ones)
    assert (np.abs(found - y) <= bound).all()
    with pytest.raises(UserError, match=f"has {most + 1} inputs") as caught:
        linear_kernel(((1 << 62, arithmetic),), most + 1, 2, True)
    assert str(most) in caught.value.expected


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.weight_dtype != "bfloat16"], ids=str)
@given(tokens=st.integers(1, 700))
@settings(max_examples=12, deadline=None)
def test_tiles_cover_every_token_and_output(variant: Variant, tokens: int) -> None:
    """Token times output, so that no two results are alike; results begin as NaN."""
    o = 100
    form = variant.choices[-1][1].form
    token = np.arange(1, tokens + 1)[:, None]
    output = np.arange(1, o + 1)
    weight: Array
    if variant.weight_dtype == "int8":
        weight, scale = np.ones((o, 1), np.int8), output.astype(np.float32)
        x = prepare_numbers(form, np.ones((tokens, 1), np.int64), token[:, 0].astype(np.float32))
    else:
        weight, scale = output[:, None].astype(np.float16), None
        token = (token - 1) % 256 + 1  # what bfloat16 holds exactly
        x = prepare(form, token.astype(np.float32))
    np.testing.assert_array_equal(run(variant, x, weight, scale), token * output)


def _often(function: Callable[[], Array]) -> list[Array]:
    return [function() for _ in range(10)]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize("variant", [VARIANTS[0], VARIANTS[-1], *QUANTIZED], ids=str)
def test_two_threads_equal_one(variant: Variant) -> None:
    """Panels are spread over threads; a sum shared between them would show within a few runs."""
    rng = np.random.default_rng(3)
    weight, scale = random_weight(rng, variant, *LARGE)
    for tokens in (1, 33):
        x = prepared(variant, rng.standard_normal((tokens, LARGE[1])).astype(np.float32))
        single = with_threads(1, partial(check, variant, x, weight, scale))
        again = partial(run, variant, x, weight, scale)
        for result in with_threads(2, partial(_often, again)):
            np.testing.assert_array_equal(result, single)


def test_sums_are_blocked() -> None:
    """The error of a long row is that of its blocks: added one by one, the sum would be off by about 60 units."""
    variant = Variant("x86-64-v3", "Linear", "float16")
    assert isinstance(variant.choices[0][1], HalfFma)
    weight = np.ones((1, 4096), np.float16)
    x = np.full((1, 4096), np.float32(1 / 3))
    (found,) = run(variant, prepared(variant, x), weight, None)[0]
    exact = 4096 * float(x[0, 0])
    assert abs(found - exact) <= 20 * 2.0**-24 * exact


def test_what_is_left_out() -> None:
    """The pairs without VNNI serve both int8 ops with one code, and one FMA serves all CPUs with AVX-512."""
    for mcpu in ("x86-64-v3", "x86-64-v4"):
        wide, narrow = (Variant(mcpu, op, "int8").choices for op, dtype in OPS if dtype == "int8")
        ((_, wide_pairs),), ((_, narrow_pairs),) = wide, narrow
        assert isinstance(narrow_pairs, Pairs) and wide_pairs == replace(narrow_pairs, form=wide_pairs.form)
        assert wide_pairs.form == replace(narrow_pairs.form, name=wide_pairs.form.name, levels=wide_pairs.form.levels)
    assert Variant("znver4", "Linear", "float16").choices == Variant("x86-64-v4", "Linear", "float16").choices
