"""Quantizing a part of a row by the maximum of the whole: in torch, in onnxruntime and on paper."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from one_node import Array, run_node

from vamc_compiler.ops import (
    all_reduce,
    all_reduce_max,
    quantized_linear_dynamic,
    quantized_linear_per_channel,
    row_max,
)
from vamc_compiler.ops.collectives import run_ranks

SIZES = [(1, 1, 1), (5, 33, 17), (19, 16, 64), (3, 100, 1)]

each_size = pytest.mark.parametrize(("n", "o", "i"), SIZES)


def random_layer(n: int, o: int, i: int) -> list[Array]:
    """x, quant_w, scale_w."""
    rng = np.random.default_rng(n + o)
    x = (rng.standard_normal((n, i)) * np.exp(rng.uniform(-9, 9, (n, 1)))).astype(np.float32)
    return [x, rng.integers(-127, 128, (o, i)).astype(np.int8), np.exp(rng.uniform(-9, 0, o)).astype(np.float32)]


@pytest.mark.parametrize(("n", "w"), [(1, 1), (3, 16), (7, 77)])
def test_row_max(n: int, w: int) -> None:
    x = np.random.default_rng(w).standard_normal((n, w)).astype(np.float32)
    x[0] = 0
    expected = np.abs(x).max(1, keepdims=True)
    np.testing.assert_array_equal(row_max(torch.from_numpy(x)).numpy(), expected)
    np.testing.assert_array_equal(run_node("RowMax", [x])[0], expected)


@each_size
def test_exact_activations_do_not_depend_on_the_maximum(n: int, o: int, i: int) -> None:
    layer = random_layer(n, o, i)
    top = 3 * np.abs(layer[0]).max(1, keepdims=True)
    plain = quantized_linear_per_channel(*map(torch.from_numpy, layer))
    assert torch.equal(quantized_linear_per_channel(*map(torch.from_numpy, [*layer, top])), plain)
    (found,) = run_node("QuantizedLinearPerChannelByTop", [*layer, top])
    np.testing.assert_array_equal(found, run_node("QuantizedLinearPerChannel", layer)[0])


@each_size
@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_a_maximum_from_elsewhere_makes_the_levels(n: int, o: int, i: int, factor: float) -> None:
    x, quant_w, scale_w = layer = random_layer(n, o, i)
    top = np.float32(factor) * np.abs(x).max(1, keepdims=True)
    x[-1], top[-1] = 0, 0
    with np.errstate(divide="ignore", invalid="ignore"):
        numbers = np.where(top > 0, np.rint(x * (np.float32(127) / top)), 0)
    assert np.abs(numbers).max() <= 127
    exact = (numbers @ quant_w.astype(np.float64).T) * (top.astype(np.float64) / 127) * scale_w
    eager = quantized_linear_dynamic(*map(torch.from_numpy, [*layer, top])).numpy()
    np.testing.assert_allclose(eager, exact, rtol=1e-6)
    (found,) = run_node("QuantizedLinearDynamicByTop", [*layer, top])
    np.testing.assert_allclose(found, exact, rtol=1e-6)
    if factor == 1.0:
        np.testing.assert_array_equal(found, run_node("QuantizedLinearDynamic", layer)[0])


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_that_share_the_maximum_round_as_one(num_ranks: int) -> None:
    """And without it they do not: the test would see a rank that scaled by its own."""
    x, quant_w, scale_w = map(torch.from_numpy, random_layer(19, 16, 60))
    whole = quantized_linear_dynamic(x, quant_w, scale_w)
    parts = list(zip(x.chunk(num_ranks, 1), quant_w.chunk(num_ranks, 1), strict=True))

    def ranks(top: Callable[[torch.Tensor], torch.Tensor | None]) -> torch.Tensor:
        def rank(part: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return all_reduce(quantized_linear_dynamic(part, weight, scale_w, top(part)))

        return run_ranks([partial(rank, part, weight) for part, weight in parts])[0]

    size = whole.abs().amax(1, keepdim=True)
    assert ((ranks(lambda part: all_reduce_max(row_max(part))) - whole).abs() <= 1e-6 * size).all()
    assert ((ranks(lambda part: None) - whole).abs() > 1e-4 * size).any()
