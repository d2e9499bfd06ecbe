"""The largest magnitude of a row, and parts of a row that are quantized by that of the whole."""

from __future__ import annotations

import os

import numpy as np
import pytest
from compiled_kernels import TARGETS, Array, call, with_threads
from linear_reference import prepare

from vamc_compiler.kernels.activations import Format, Tensor, row_kernel, row_max_kernel
from vamc_compiler.kernels.dot_int8 import DIGITS_8, DIGITS_16, WHOLE_8, WHOLE_16

QUANTIZED = [DIGITS_8, DIGITS_16, WHOLE_8, WHOLE_16]
WIDTHS = [1, 15, 16, 77, 1030]


def random_rows(n: int, w: int) -> Array:
    """Rows of very different sizes; the last two are too small to have a scale."""
    rng = np.random.default_rng(n + w)
    x = rng.standard_normal((n, w)) * np.exp(rng.uniform(-20, 20, (n, 1)))
    if n > 2:
        x[-2] *= 1e-38 / np.abs(x[-2]).max()
        x[-1] = 0
    rows: Array = x.astype(np.float32)
    return rows


def row_maxima(x: Array, mcpu: str = "host") -> Array:
    (top,) = call(row_max_kernel(x.shape[1]), mcpu, [x], [((len(x), 1), np.float32)])
    return top


def quantize(form: Format, x: Array, top: Array, mcpu: str = "host") -> tuple[Array, Array]:
    """The numbers [n, planes, w] and the scale [n] of rows scaled by `top`."""
    n, w = x.shape
    outputs = [(tuple(map(int, shape)), np.dtype(dtype)) for shape, dtype in form.tensors(n, w)]
    numbers, scale = call(row_kernel(Tensor(), form, w, True), mcpu, [x, top], outputs)
    return numbers[..., :w], scale


@pytest.mark.parametrize("mcpu", TARGETS)
@pytest.mark.parametrize("w", WIDTHS)
def test_row_max(mcpu: str, w: int) -> None:
    for n in (1, 2, 9):
        x = random_rows(n, w)
        np.testing.assert_array_equal(row_maxima(x, mcpu), np.abs(x).max(1, keepdims=True))


def test_every_place_of_a_row_counts() -> None:
    """Either sign, in the whole vectors and in the odd end."""
    x = np.full((77, 77), 0.5, np.float32)
    np.fill_diagonal(x, np.where(np.arange(77) % 2, -2, 2) + np.arange(77) / 100)
    np.testing.assert_array_equal(row_maxima(x)[:, 0], np.abs(np.diag(x)))


@pytest.mark.parametrize("mcpu", TARGETS)
@pytest.mark.parametrize("form", QUANTIZED, ids=lambda form: form.name)
@pytest.mark.parametrize("cuts", [(), (38,), (16, 64), (1, 2)])
def test_parts_hold_what_the_whole_row_holds(mcpu: str, form: Format, cuts: tuple[int, ...]) -> None:
    """Bit by bit: ranks that share the maximum quantize as one rank does, wherever the maximum lies."""
    for n in (1, 9):
        x = random_rows(n, 77)
        whole = prepare(form, x)
        top = np.abs(x).max(1, keepdims=True)
        begins, ends = (0, *cuts), (*cuts, 77)
        for begin, end in zip(begins, ends, strict=True):
            numbers, scale = quantize(form, np.ascontiguousarray(x[:, begin:end]), top, mcpu)
            np.testing.assert_array_equal(numbers, whole.tensors[0][..., begin:end])
            np.testing.assert_array_equal(scale, whole.scale)


@pytest.mark.parametrize("form", QUANTIZED, ids=lambda form: form.name)
def test_a_part_without_values_is_zero(form: Format) -> None:
    """As on a rank whose heads are padding: another has the maximum."""
    x = np.zeros((3, 20), np.float32)
    numbers, scale = quantize(form, x, np.array([[1.0], [0.0], [1e-31]], np.float32))
    np.testing.assert_array_equal(numbers, prepare(form, x).tensors[0][..., :20])
    np.testing.assert_array_equal(scale, np.array([1 / np.float32(form.levels), 0, 0], np.float32))


def test_the_kernels_have_names_of_their_own() -> None:
    kernels = [row_kernel(Tensor(), form, 20, given) for form in QUANTIZED for given in (False, True)]
    names = {kernel.name for kernel in [*kernels, row_max_kernel(20), row_max_kernel(21)]}
    assert len(names) == len(kernels) + 2


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_two_threads_equal_one() -> None:
    x = random_rows(301, 77)
    top = np.abs(x).max(1, keepdims=True)
    maxima, (numbers, scale) = with_threads(1, lambda: (row_maxima(x), quantize(DIGITS_16, x, top)))
    np.testing.assert_array_equal(maxima, top)
    for again, (numbers_again, scale_again) in with_threads(
        2, lambda: [(row_maxima(x), quantize(DIGITS_16, x, top)) for _ in range(10)]
    ):
        np.testing.assert_array_equal(again, maxima)
        np.testing.assert_array_equal(numbers_again, numbers)
        np.testing.assert_array_equal(scale_again, scale)
