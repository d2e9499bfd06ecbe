"""Paged attention token by token in float64, and random steps to try it on.

Dimension letters: n tokens, h query heads, g key/value heads, d head width, b sequences, p pages, P cache pages, s
tokens per page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class AttentionStep:
    """The arguments of one step, in the op's order."""

    query: Array
    """float32 [n, h, d]"""
    key: Array
    """float32 [n, g, d]"""
    value: Array
    """float32 [n, g, d]"""
    kv_cache: Array
    """float16 [P, 2, g, s, d]"""
    position_ids: Array
    """int32 [n]"""
    seq_ids: Array
    """int32 [n]"""
    page_table: Array
    """int32 [b, p]"""

    def arrays(self) -> list[Array]:
        return list(vars(self).values())

    def tokens(self, which: Sequence[int] | Array, kv_cache: Array) -> AttentionStep:
        """A step of some of the tokens, on another state of the cache."""
        picked = {name: getattr(self, name)[which] for name in ("query", "key", "value", "position_ids", "seq_ids")}
        return replace(self, **picked, kv_cache=kv_cache)


def random_step(
    rng: np.random.Generator,
    heads: int,
    kv_heads: int,
    head_dim: int,
    page_tokens: int,
    sequences: Sequence[tuple[int, int]],
    *,
    unwritten: float = 100.0,
) -> AttentionStep:
    """Sequences given as (tokens before, new tokens), on pages out of order; `unwritten` fills what nobody wrote."""
    pages_of = [-(-(before + new) // page_tokens) for before, new in sequences]
    num_pages = sum(pages_of) + 3
    order = rng.permutation(num_pages)
    page_table = np.full((len(sequences), max(pages_of) + 1), order[-1], np.int32)
    kv_cache = np.full((num_pages, 2, kv_heads, page_tokens, head_dim), unwritten, np.float16)
    positions, rows, taken = [], [], 0
    for row, ((before, new), num) in enumerate(zip(sequences, pages_of, strict=True)):
        page_table[row, :num] = order[taken : taken + num]
        taken += num
        for position in range(before):
            page, slot = page_table[row, position // page_tokens], position % page_tokens
            kv_cache[page, :, :, slot] = rng.standard_normal((2, kv_heads, head_dim))
        positions += range(before, before + new)
        rows += [row] * new
    n = len(positions)
    return AttentionStep(
        rng.standard_normal((n, heads, head_dim)).astype(np.float32),
        rng.standard_normal((n, kv_heads, head_dim)).astype(np.float32),
        rng.standard_normal((n, kv_heads, head_dim)).astype(np.float32),
        kv_cache,
        np.array(positions, np.int32),
        np.array(rows, np.int32),
        page_table,
    )


def attend(step: AttentionStep, scale: float, slopes: Array | None = None) -> tuple[Array, Array]:
    """What each token reads, float64 [n, h, d], and the cache with the step's tokens."""
    kv_cache = step.kv_cache.copy()
    page_tokens = kv_cache.shape[3]
    places = [
        (step.page_table[row, position // page_tokens], position % page_tokens)
        for row, position in zip(step.seq_ids, step.position_ids, strict=True)
    ]
    for token, (page, slot) in enumerate(places):
        kv_cache[page, 0, :, slot] = step.key[token]
        kv_cache[page, 1, :, slot] = step.value[token]
    num_heads = step.query.shape[1]
    group = num_heads // kv_cache.shape[2]
    result = np.zeros(step.query.shape, np.float64)
    for token, (row, position) in enumerate(zip(step.seq_ids, step.position_ids, strict=True)):
        index = np.arange(position + 1)
        pages = step.page_table[row, index // page_tokens]
        for head in range(num_heads):
            keys, values = (kv_cache[pages, i, head // group, index % page_tokens].astype(np.float64) for i in (0, 1))
            scores = keys @ step.query[token, head].astype(np.float64) * scale
            if slopes is not None:
                scores += float(slopes[head]) * index
            weights = np.exp(scores - scores.max())
            result[token, head] = weights @ values / weights.sum()
    return result, kv_cache
