"""Paged attention means the same in torch, in onnxruntime and token by token in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from attention_reference import Array, AttentionStep, Rotary, append, attend, random_rotary, random_step
from one_node import run_node

from vamc_compiler.ops import paged_attention

CASES = {
    "one token": (1, 1, 4, 4, [(0, 1)]),
    "prefill": (3, 3, 5, 4, [(0, 11)]),
    "decode across pages": (4, 4, 8, 4, [(3, 1), (4, 1), (17, 1)]),
    "grouped": (6, 2, 4, 4, [(2, 3), (0, 5)]),
    "one key/value head": (5, 1, 3, 2, [(6, 1), (1, 2)]),
    "mixed": (4, 2, 6, 16, [(0, 20), (31, 1), (16, 16), (15, 2)]),
}


def eager(
    step: AttentionStep, scale: float, slopes: Array | None = None, rotary: Rotary | None = None
) -> tuple[Array, Array]:
    tensors: Any = map(torch.from_numpy, step.arrays())
    attended, kv_cache = cast(Any, paged_attention)(
        *tensors,
        scale=scale,
        slopes=None if slopes is None else torch.from_numpy(slopes),
        rotary=None if rotary is None else (torch.from_numpy(rotary[0]), torch.from_numpy(rotary[1])),
    )
    return attended.numpy(), kv_cache.numpy()


def in_onnxruntime(
    step: AttentionStep, scale: float, slopes: Array | None = None, rotary: Rotary | None = None
) -> tuple[Array, Array]:
    arrays = [*step.arrays(), *([] if slopes is None else [slopes]), *(rotary or ())]
    attended, kv_cache = run_node("PagedAttention", arrays, 2, scale=scale)
    return attended, kv_cache


@pytest.mark.parametrize("run", [eager, in_onnxruntime])
@pytest.mark.parametrize("alibi", [False, True], ids=["no slopes", "slopes"])
@pytest.mark.parametrize("case", CASES)
def test_against_the_reference(case: str, alibi: bool, run: object) -> None:
    heads, kv_heads, head_dim, page_tokens, sequences = CASES[case]
    step = random_step(np.random.default_rng(0), heads, kv_heads, head_dim, page_tokens, sequences)
    slopes = np.linspace(0.5, 0.0, heads).astype(np.float32) if alibi else None
    assert callable(run)
    before = step.kv_cache.copy()
    attended, kv_cache = run(step, 0.37, slopes)
    expected, expected_cache = attend(step, 0.37, slopes)
    np.testing.assert_allclose(attended, expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(kv_cache, expected_cache)
    np.testing.assert_array_equal(step.kv_cache, before)  # the op returns a new cache


@pytest.mark.parametrize("run", [eager, in_onnxruntime])
@pytest.mark.parametrize("alibi", [False, True], ids=["no slopes", "slopes"])
@pytest.mark.parametrize("case", ["grouped", "mixed", "decode across pages"])
def test_rotation_inside(case: str, alibi: bool, run: object) -> None:
    """Queries and keys are turned by the angles of their tokens, values are not; the cache holds turned keys."""
    heads, kv_heads, head_dim, page_tokens, sequences = CASES[case]
    step = random_step(np.random.default_rng(0), heads, kv_heads, head_dim, page_tokens, sequences)
    slopes = np.linspace(0.5, 0.0, heads).astype(np.float32) if alibi else None
    rotary = random_rotary(step)
    assert callable(run)
    attended, kv_cache = run(step, 0.37, slopes, rotary)
    np.testing.assert_allclose(kv_cache, append(step, rotary), rtol=2**-10, atol=2**-24)  # the next half at most
    np.testing.assert_array_equal(kv_cache[:, 1], append(step)[:, 1])
    expected, _ = attend(step, 0.37, slopes, rotary, kv_cache)
    np.testing.assert_allclose(attended, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("run", [eager, in_onnxruntime])
@pytest.mark.parametrize("chunks", [(1,) * 13, (5, 8), (4, 4, 5), (12, 1)], ids=str)
def test_chunks_equal_the_whole(chunks: Sequence[int], run: object) -> None:
    step = random_step(np.random.default_rng(1), 4, 2, 4, 4, [(0, 13)])
    slopes = np.array([0.5, 0.25, 0.125, 0.0], np.float32)
    assert callable(run)
    whole, whole_cache = attend(step, 0.5, slopes)
    kv_cache, begin = step.kv_cache, 0
    for size in chunks:
        chunk = np.arange(begin, begin + size)
        attended, kv_cache = run(step.tokens(chunk, kv_cache), 0.5, slopes)
        np.testing.assert_allclose(attended, whole[chunk], rtol=2e-5, atol=2e-6)
        begin += size
    np.testing.assert_array_equal(kv_cache, whole_cache)


@pytest.mark.parametrize("run", [eager, in_onnxruntime])
def test_the_order_of_tokens_in_a_step_does_not_matter(run: object) -> None:
    step = random_step(np.random.default_rng(2), 2, 2, 4, 4, [(2, 5), (7, 3), (0, 6)])
    assert callable(run)
    shuffled = np.random.default_rng(3).permutation(len(step.seq_ids))
    attended, kv_cache = run(step.tokens(shuffled, step.kv_cache), 0.5)
    expected, expected_cache = attend(step, 0.5)
    np.testing.assert_allclose(attended, expected[shuffled], rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(kv_cache, expected_cache)


@pytest.mark.parametrize("run", [eager, in_onnxruntime])
def test_absolute_and_relative_slopes_agree(run: object) -> None:
    """slope * key index and slope * (key index - position) differ by a constant per row, which softmax drops."""
    step = random_step(np.random.default_rng(4), 2, 2, 4, 4, [(3, 4)])
    slopes = np.array([0.7, 0.1], np.float32)
    assert callable(run)
    attended, kv_cache = run(step, 0.5, slopes)
    page_tokens = 4
    for token, (row, position) in enumerate(zip(step.seq_ids, step.position_ids, strict=True)):
        index = np.arange(position + 1)
        pages = step.page_table[row, index // page_tokens]
        for head in range(2):
            keys, values = (kv_cache[pages, i, head, index % page_tokens].astype(np.float64) for i in (0, 1))
            scores = keys @ step.query[token, head] * 0.5 + float(slopes[head]) * (index - position)
            weights = np.exp(scores)
            np.testing.assert_allclose(attended[token, head], weights @ values / weights.sum(), rtol=2e-5, atol=2e-6)
