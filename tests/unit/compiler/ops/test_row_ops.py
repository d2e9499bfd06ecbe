"""Embedding, norms and the gate mean the same in torch, in onnxruntime and on paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from one_node import Array, run_node

from vamc_compiler.ops import add_rms_norm, embedding, rms_norm, silu_mul

SIZES = [(1, 1), (3, 16), (7, 77), (2, 1030)]
EPSILON = 1e-5

each_size = pytest.mark.parametrize(("n", "w"), SIZES)
each_way = pytest.mark.parametrize("way", ["eager", "onnxruntime"])


def compute(
    way: str, function: Callable[..., object], op: str, arrays: list[Array], **attributes: float
) -> list[Array]:
    if way == "onnxruntime":
        return run_node(op, arrays, 2 if op == "AddRMSNorm" else 1, **attributes)
    result = function(*map(torch.from_numpy, arrays), *attributes.values())
    return [tensor.numpy() for tensor in (result if isinstance(result, tuple) else (result,))]


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@each_way
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_embedding(way: str, dtype: type) -> None:
    table: npt.NDArray[Any] = random(9, 5).astype(dtype)
    ids = np.array([3, 0, 8, 3], np.int32)
    (found,) = compute(way, embedding, "Embedding", [ids, table])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, table[ids].astype(np.float32))


def test_embedding_of_bfloat16() -> None:
    table = torch.randn(9, 5).bfloat16()
    found = embedding(torch.tensor([8, 0, 8], dtype=torch.int32), table)
    assert torch.equal(found, table[[8, 0, 8]].float()) and found.dtype == torch.float32


@each_way
@each_size
def test_rms_norm(way: str, n: int, w: int) -> None:
    x, weight = random(n, w), random(w, seed=1)
    x[0] *= 1e-4  # where epsilon matters
    (found,) = compute(way, rms_norm, "RMSNorm", [x, weight], epsilon=EPSILON)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(found, wide / np.sqrt((wide**2).mean(1, keepdims=True) + EPSILON) * weight, rtol=2e-6)


@each_way
@each_size
def test_add_rms_norm(way: str, n: int, w: int) -> None:
    x, added, weight = random(n, w), random(n, w, seed=1), random(w, seed=2)
    stream, found = compute(way, add_rms_norm, "AddRMSNorm", [x, added, weight], epsilon=EPSILON)
    np.testing.assert_array_equal(stream, x + added)
    wide = (x + added).astype(np.float64)
    np.testing.assert_allclose(found, wide / np.sqrt((wide**2).mean(1, keepdims=True) + EPSILON) * weight, rtol=2e-6)


@each_way
@each_size
def test_silu_mul(way: str, n: int, w: int) -> None:
    gate, up = 8 * random(n, w), random(n, w, seed=1)
    gate[0, 0] = -80
    (found,) = compute(way, silu_mul, "SiluMul", [gate, up])
    opening = 1 / (1 + np.exp(-gate.astype(np.float64)))
    # onnxruntime's sigmoid is a polynomial whose error is absolute.
    bound = (2e-6 * opening + (1e-30 if way == "eager" else 3e-7)) * np.abs(gate * up)
    assert (np.abs(found - gate * opening * up) <= bound).all()
