"""The linear ops mean the same in torch, in onnxruntime and on paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from one_node import Array, run_node

from vamc_compiler.ops import linear, quantized_linear_dynamic, quantized_linear_per_channel

SIZES = [(1, 1, 1), (1, 7, 3), (5, 33, 17), (19, 16, 64), (3, 100, 1)]


def assert_close(found: Array, x: Array, weight: Array) -> None:
    """Within the rounding of a float32 sum of that many terms."""
    exact = x.astype(np.float64) @ weight.astype(np.float64).T
    bound = (x.shape[1] + 3) * 2.0**-23 * (np.abs(x).astype(np.float64) @ np.abs(weight).astype(np.float64).T)
    assert found.dtype == np.float32 and found.shape == exact.shape
    assert (np.abs(found - exact) <= bound).all()


@pytest.mark.parametrize(("n", "o", "i"), SIZES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_linear(n: int, o: int, i: int, dtype: type) -> None:
    rng = np.random.default_rng(n + o)
    x = rng.standard_normal((n, i)).astype(np.float32)
    weight: npt.NDArray[Any] = rng.standard_normal((o, i)).astype(dtype)
    assert_close(linear(torch.from_numpy(x), torch.from_numpy(weight)).numpy(), x, weight)
    assert_close(run_node("Linear", [x, weight])[0], x, weight)


def test_linear_of_bfloat16() -> None:
    """onnxruntime has no numpy type for it: the exported rank in `tests/numerics` covers its function."""
    x, weight = torch.randn(5, 17), torch.randn(9, 17).bfloat16()
    assert_close(linear(x, weight).numpy(), x.numpy(), weight.float().numpy())


def test_linear_does_not_round_its_input_to_half() -> None:
    x, weight = np.array([[1 + 2.0**-20]], np.float32), np.ones((1, 1), np.float16)
    assert linear(torch.from_numpy(x), torch.from_numpy(weight)).item() == x[0, 0]
    assert run_node("Linear", [x, weight])[0][0, 0] == x[0, 0]


@pytest.mark.parametrize(("n", "o", "i"), SIZES)
def test_quantized_linear(n: int, o: int, i: int) -> None:
    rng = np.random.default_rng(n + o)
    x = rng.standard_normal((n, i)).astype(np.float32)
    quant_w = rng.integers(-127, 128, (o, i)).astype(np.int8)
    scale_w = np.exp(rng.uniform(-12, 3, o)).astype(np.float32)
    weight = quant_w.astype(np.float64) * scale_w[:, None]
    eager = quantized_linear_per_channel(*map(torch.from_numpy, (x, quant_w, scale_w))).numpy()
    assert_close(eager, x, weight)
    assert_close(run_node("QuantizedLinearPerChannel", [x, quant_w, scale_w])[0], x, weight)


@pytest.mark.parametrize(("n", "o", "i"), SIZES)
def test_dynamic_quantized_linear(n: int, o: int, i: int) -> None:
    """Whole numbers per token, each within a half of x / scale, and their exact products."""
    rng = np.random.default_rng(n + o)
    x = rng.standard_normal((n, i)).astype(np.float32)
    quant_w = rng.integers(-127, 128, (o, i)).astype(np.int8)
    scale_w = np.exp(rng.uniform(-12, 3, o)).astype(np.float32)
    scale = np.abs(x).max(1, keepdims=True) / np.float32(127)
    numbers = np.rint(x * (np.float32(127) / np.abs(x).max(1, keepdims=True)))
    assert np.abs(numbers).max() == 127 and np.abs(numbers - x / scale).max() <= 0.5 + 1e-4
    exact = (numbers.astype(np.int64) @ quant_w.T.astype(np.int64)) * scale.astype(np.float64) * scale_w
    eager = quantized_linear_dynamic(*map(torch.from_numpy, (x, quant_w, scale_w))).numpy()
    for found in (eager, run_node("QuantizedLinearDynamic", [x, quant_w, scale_w])[0]):
        assert found.dtype == np.float32 and found.shape == (n, o)
        np.testing.assert_allclose(found, exact, rtol=3 * 2.0**-24)


def test_dynamic_rows_of_any_size() -> None:
    """Each token has its own scale; one that is too small to have any counts as zero."""
    sizes = np.array([0, 1e-40, 0.9e-30, 1.1e-30, 1e-10, 1, 1e30], np.float32)
    x = sizes[:, None] * np.array([[1, -0.4, 0.25]], np.float32)
    weight, ones = np.eye(3, dtype=np.int8), np.ones(3, np.float32)
    eager = quantized_linear_dynamic(*map(torch.from_numpy, (x, weight, ones))).numpy()
    for found in (eager, run_node("QuantizedLinearDynamic", [x, weight, ones])[0]):
        assert not found[:3].any()
        np.testing.assert_allclose(
            found[3:] / sizes[3:, None], np.broadcast_to([1, -51 / 127, 32 / 127], (4, 3)), rtol=1e-6
        )
