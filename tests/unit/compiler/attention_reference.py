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
    positions: list[int] = []
    rows: list[int] = []
    taken = 0
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


Rotary = tuple[Array, Array]
"""Cosine and sine float32 [n, 1, d] of each token's angles."""


def random_rotary(step: AttentionStep, base: float = 100.0) -> Rotary:
    """The angles of a model whose frequencies fall from 1 to 1 / base; each half of a head has the same."""
    half = step.query.shape[2] // 2
    frequencies = np.tile(base ** -np.linspace(0, 1, half), 2)
    angles = step.position_ids[:, None, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(x: Array, rotary: Rotary | None) -> Array:
    """x [n, heads, d] turned by the angles of its tokens, float64."""
    if rotary is None:
        return x.astype(np.float64)
    cosine, sine = (part.astype(np.float64) for part in rotary)
    low, high = np.split(x.astype(np.float64), 2, axis=2)
    return np.concatenate((low, high), 2) * cosine + np.concatenate((-high, low), 2) * sine


def append(step: AttentionStep, rotary: Rotary | None = None) -> Array:
    """The cache with the step's tokens."""
    kv_cache = step.kv_cache.copy()
    page_tokens = kv_cache.shape[3]
    keys = rotate(step.key, rotary)
    for token, (row, position) in enumerate(zip(step.seq_ids, step.position_ids, strict=True)):
        page, slot = step.page_table[row, position // page_tokens], position % page_tokens
        kv_cache[page, 0, :, slot] = keys[token]
        kv_cache[page, 1, :, slot] = step.value[token]
    return kv_cache


def attend(
    step: AttentionStep,
    scale: float,
    slopes: Array | None = None,
    rotary: Rotary | None = None,
    kv_cache: Array | None = None,
) -> tuple[Array, Array]:
    """What each token reads, float64 [n, h, d], and the cache with the step's tokens.

    A `kv_cache` that is given holds them already.
    """
    kv_cache = append(step, rotary) if kv_cache is None else kv_cache
    page_tokens, kv_heads = kv_cache.shape[3], kv_cache.shape[2]
    query = rotate(step.query, rotary)
    heads, width = query.shape[1:]
    result = np.zeros(query.shape)
    for row in np.unique(step.seq_ids):
        index = np.arange(step.position_ids[step.seq_ids == row].max() + 1)
        context = kv_cache[step.page_table[row, index // page_tokens], :, :, index % page_tokens].astype(np.float64)
        for token in np.flatnonzero(step.seq_ids == row):
            keys, values = context[: step.position_ids[token] + 1].transpose(1, 2, 0, 3)
            scores = query[token].reshape(kv_heads, -1, width) @ keys.swapaxes(1, 2) * scale
            if slopes is not None:
                bias = slopes.astype(np.float64).reshape(kv_heads, -1, 1) * index[: keys.shape[1]]
                scores = scores + bias
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            result[token] = (weights @ values / weights.sum(-1, keepdims=True)).reshape(heads, width)
    return result, kv_cache
