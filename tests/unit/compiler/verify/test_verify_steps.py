"""Cutting a sequence into steps: nothing is lost, nothing twice, pages go through the table."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vamc_compiler.verify.steps import count_pages, decode_chunks, digest_tokens, even_chunks, odd_chunks, plan_steps

LENGTHS = st.integers(1, 300)


@given(LENGTHS, st.integers(1, 300), st.integers(0, 300))
def test_chunks_add_up_and_keep_the_limit(num_tokens: int, most: int, num_decoded: int) -> None:
    num_decoded = min(num_decoded, num_tokens)
    for chunks in (
        even_chunks(num_tokens, most),
        odd_chunks(num_tokens, most),
        decode_chunks(num_tokens, num_decoded, most),
    ):
        assert sum(chunks) == num_tokens
        assert all(1 <= size <= most for size in chunks)
    assert decode_chunks(num_tokens, num_decoded, most)[len(chunks) - num_decoded :] == [1] * num_decoded


def test_the_kinds_of_chunks() -> None:
    assert even_chunks(40, 16) == [16, 16, 8]
    assert odd_chunks(70, 48) == [7, 16, 1, 33, 7, 6]
    assert odd_chunks(70, 10) == [7, 10, 1, 10, 7, 10, 1, 10, 7, 7]
    assert decode_chunks(40, 3, 16) == [16, 16, 5, 1, 1, 1]
    assert decode_chunks(2, 2, 16) == [1, 1]


@given(st.lists(st.integers(0, 31999), min_size=1, max_size=100), st.integers(1, 40), st.integers(1, 32))
def test_steps_cover_the_sequence(token_ids: list[int], chunk_tokens: int, page_tokens: int) -> None:
    steps = plan_steps(token_ids, even_chunks(len(token_ids), chunk_tokens), page_tokens)
    assert np.concatenate([step.input_ids for step in steps]).tolist() == token_ids
    assert np.concatenate([step.position_ids for step in steps]).tolist() == list(range(len(token_ids)))
    num_pages = count_pages(len(token_ids), page_tokens)
    assert (num_pages - 1) * page_tokens < len(token_ids) <= num_pages * page_tokens
    for step in steps:
        assert sorted(step.page_table[0].tolist()) == list(range(num_pages))
        assert np.array_equal(step.page_table, steps[0].page_table)
        assert step.logits_index.tolist() == list(range(len(step.input_ids))), "logits of every token"
        assert not step.seq_ids.any()
        assert {array.dtype for array in step} == {np.dtype(np.int32)}


def test_pages_are_not_in_order() -> None:
    """Otherwise a page addressed by its number instead of through the table would not show."""
    (step,) = plan_steps(range(100), [100], 16)
    assert step.page_table[0].tolist() != list(range(7))


def test_chunks_of_another_sequence_are_refused() -> None:
    with pytest.raises(AssertionError, match="every token"):
        plan_steps([1, 2, 3], [2], 16)


def test_digest() -> None:
    expected = hashlib.sha256(b"\x01\0\0\0\x02\0\0\0\x03\x01\0\0").hexdigest()
    assert digest_tokens([[1, 2], [259]]) == digest_tokens([[1], [2, 259]]) == expected
    assert digest_tokens([[2, 1], [259]]) != expected
