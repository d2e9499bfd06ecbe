"""One sequence as the steps that compute it: at once, in chunks, or token by token after a prefill."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from vamc_runtime.executor import StepArguments


def even_chunks(num_tokens: int, chunk_tokens: int) -> list[int]:
    """Chunks of `chunk_tokens`, the last as long as is left."""
    return [min(chunk_tokens, num_tokens - begin) for begin in range(0, num_tokens, chunk_tokens)]


def odd_chunks(num_tokens: int, most: int) -> list[int]:
    """Chunks that begin anywhere within a cache page, and end anywhere: 7, 16, 1, 33, over again."""
    sizes: list[int] = []
    while (left := num_tokens - sum(sizes)) > 0:
        sizes.append(min((7, 16, 1, 33)[len(sizes) % 4], left, most))
    return sizes


def decode_chunks(num_tokens: int, num_decoded: int, most: int) -> list[int]:
    """A prefill, then `num_decoded` steps of one token."""
    prefilled = max(0, num_tokens - num_decoded)
    return [*even_chunks(prefilled, most), *[1] * (num_tokens - prefilled)]


def plan_steps(token_ids: Sequence[int], chunks: Sequence[int], page_tokens: int) -> list[StepArguments]:
    """The steps of one sequence, with logits of every token.

    Args:
        token_ids: the sequence.
        chunks: tokens of each step; they add up to the sequence.
        page_tokens: tokens of a cache page.

    Returns:
        Steps whose page table is a permutation of the pages 0 .. ceil(tokens / page_tokens) - 1: a page that is
        addressed by its number instead of through the table shows.
    """
    assert sum(chunks) == len(token_ids), "every token is computed once"
    num_pages = count_pages(len(token_ids), page_tokens)
    table = np.random.default_rng(0).permutation(num_pages).astype(np.int32)[None]
    steps, begin = [], 0
    for length in chunks:
        ids = np.array(token_ids[begin : begin + length], np.int32)
        positions = np.arange(begin, begin + length, dtype=np.int32)
        steps.append(StepArguments(ids, positions, np.zeros_like(ids), table, np.arange(length, dtype=np.int32)))
        begin += length
    return steps


def count_pages(num_tokens: int, page_tokens: int) -> int:
    """Cache pages that a sequence takes."""
    return -(-num_tokens // page_tokens)


def digest_tokens(sequences: Sequence[Sequence[int]]) -> str:
    """sha256 of all ids as little-endian int32."""
    ids = [token for sequence in sequences for token in sequence]
    return hashlib.sha256(np.array(ids, "<i4").tobytes()).hexdigest()
