"""Bytes and multiply-adds of a step, calculated by hand."""

from __future__ import annotations

from typing import Any

import fake_runstream as fake
import numpy as np
import pytest

from vamc_runtime.bench.cases import Case
from vamc_runtime.bench.costs import RankWeights, cost_of, measure_weights
from vamc_runtime.bench.roof import merge_spans
from vamc_runtime.manifest import KVCacheLayout, Limits

WEIGHTS: dict[str, Any] = {
    "model.embed_tokens.weight": np.zeros((100, 8), np.float16),
    "model.layers.0.q_proj.quant_w": np.zeros((1, 8, 16), np.int8),
    "model.layers.0.q_proj.scale_w": np.zeros(16, np.float32),
    "model.layers.0.o_proj.weight": np.zeros((1, 4, 32), np.uint16),  # bfloat16
    "model.norm.weight": np.zeros(8, np.float32),
    "lm_head.weight": np.zeros((7, 8, 16), np.float16),
}


def test_weights() -> None:
    assert measure_weights(WEIGHTS) == RankWeights(
        read_bytes=128 + 64 + 256 + 32 + 1792,
        embedding_row_bytes=16,
        layer_multiply_adds=128 + 128,
        head_multiply_adds=896,
    )


MANIFEST = fake.make_manifest(
    limits=Limits(max_prefill_tokens=8, max_context_tokens=64),
    kv_cache=KVCacheLayout(num_layers=2, num_heads=2, page_tokens=4, head_dim=8),
)
TOKEN_BYTES = 2 * 2 * 2 * 8 * 2  # layers, keys and values, heads, width, float16
RANK = RankWeights(read_bytes=1000, embedding_row_bytes=16, layer_multiply_adds=300, head_multiply_adds=70)


def test_prefill() -> None:
    cost = cost_of(Case(phase="prefill", batch=1, context=20), MANIFEST, [RANK])
    assert cost.weight_bytes == 3000, "three steps of at most 8 tokens"
    assert cost.embedding_bytes == 20 * 16
    assert cost.linear_multiply_adds == 20 * 300 + 3 * 70, "the head for one token of each step"
    assert cost.attention_multiply_adds == 2 * 2 * 4 * 8 * 210, "keys and values, layers, heads, width, pairs"


def test_decode_on_two_ranks() -> None:
    cost = cost_of(Case(phase="decode", batch=3, context=10), MANIFEST, [RANK, RANK])
    assert cost.weight_bytes == 2000
    assert cost.kv_bytes == 2 * TOKEN_BYTES * 30
    assert cost.linear_multiply_adds == 2 * (3 * 300 + 3 * 70)
    assert cost.attention_multiply_adds == 2 * 2 * 4 * 8 * 30, "heads of all ranks"


@pytest.mark.parametrize(
    ("spans", "merged"),
    [
        ([], []),
        ([(0, 64)], [(0, 64)]),
        ([(128, 192), (0, 64), (64, 128)], [(0, 192)]),
        ([(0, 64), (8192, 8256)], [(0, 64), (8192, 8256)]),
        ([(0, 100), (50, 80)], [(0, 100)]),
    ],
)
def test_neighbours_are_read_as_one(spans: list[tuple[int, int]], merged: list[tuple[int, int]]) -> None:
    assert merge_spans(spans) == merged
