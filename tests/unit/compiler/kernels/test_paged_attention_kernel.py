"""The paged attention kernel against float64: every way to cut a step into tiles gives the same bits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from attention_reference import Array, AttentionStep, append, attend, random_rotary, random_step
from compiled_kernels import call, require, table, with_threads

from vamc_compiler.kernels.paged_attention import CHUNK_KEYS, MOST_SPLIT_TOKENS, Shape, TileShape, attention_kernel

PAGE_TOKENS = 16
UNIT = 2.0**-24
ROUNDINGS = 32
"""Relative to the sum of weights times absolute values: what the longest contexts and widest heads here need."""


@dataclass(frozen=True)
class Case:
    """A kernel, compiled for this host or for a lower level."""

    heads: int
    kv_heads: int
    head_dim: int
    alibi: bool = False
    rotary: bool = False
    mcpu: str = "host"

    def __str__(self) -> str:
        options = " alibi" * self.alibi + " rotary" * self.rotary
        return f"{self.heads}x{self.kv_heads}x{self.head_dim}{options} {self.mcpu}"

    @property
    def scale(self) -> float:
        return float(self.head_dim**-0.5)

    @property
    def slopes(self) -> Array | None:
        return np.linspace(0.5, 0.0, self.heads).astype(np.float32) if self.alibi else None

    @property
    def tile(self) -> TileShape:
        return table(self.mcpu).attention


LOWEST = "x86-64-v3"
CASES = [
    Case(2, 2, 64),
    Case(3, 3, 20, alibi=True),
    Case(4, 2, 24, rotary=True),
    Case(6, 2, 80, alibi=True, rotary=True),
    Case(5, 1, 32),
    Case(12, 2, 64, rotary=True),
    Case(7, 1, 40, alibi=True),
    Case(8, 1, 96),
    Case(12, 1, 24, rotary=True),
    Case(1, 1, 128, alibi=True),
    Case(1, 1, 256, rotary=True),
    Case(1, 1, 6, alibi=True),
    Case(1, 1, 64, mcpu=LOWEST),
    Case(2, 1, 20, rotary=True, mcpu=LOWEST),
    Case(8, 1, 24, alibi=True, rotary=True, mcpu=LOWEST),
]
PLAIN, SLOPED, GROUPED, PAIRED, LOW = CASES[0], CASES[3], CASES[5], CASES[2], CASES[-1]
SEQUENCES: dict[str, Sequence[tuple[int, int]]] = {
    # (tokens before, new tokens)
    "one token": [(0, 1)],
    "prefill across pages": [(0, 23)],
    "decode at the edges of pages and blocks": [(15, 1), (16, 1), (17, 1), (63, 1), (64, 1), (65, 1)],
    "mixed": [(0, 9), (33, 1), (6, 7), (18, 20), (1, 1)],
    "decode over chunks": [(1500, 1), (CHUNK_KEYS - 1, 2), (CHUNK_KEYS, 1), (10, 1), (2 * CHUNK_KEYS + 70, 1)],
    "prefill over chunks": [(CHUNK_KEYS - 4, 9), (3, 1), (2 * CHUNK_KEYS - 1, 3), (0, 5)],
}
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def transposed_keys(kv_cache: Array) -> Array:
    """[s, d] to [d, s] in every page, and back."""
    turned = kv_cache.copy()
    pages, _, heads, slots, width = kv_cache.shape
    turned[:, 0] = kv_cache[:, 0].swapaxes(2, 3).reshape(pages, heads, slots, width)
    return turned


def straight_keys(kv_cache: Array) -> Array:
    """The reverse."""
    straight = kv_cache.copy()
    pages, _, heads, slots, width = kv_cache.shape
    straight[:, 0] = kv_cache[:, 0].reshape(pages, heads, width, slots).swapaxes(2, 3)
    return straight


def case_step(case: Case, seed: int, sequences: Sequence[tuple[int, int]], unwritten: float = np.nan) -> AttentionStep:
    """What nobody wrote is NaN: reading one element too many shows."""
    rng = np.random.default_rng(seed)
    return random_step(rng, case.heads, case.kv_heads, case.head_dim, PAGE_TOKENS, sequences, unwritten=unwritten)


def run(case: Case, step: AttentionStep) -> tuple[Array, Array]:
    """The result, and the cache after the call; `call` checks that nothing else changed."""
    shape = Shape(case.heads, case.kv_heads, case.head_dim, case.scale, case.alibi, case.rotary)
    arrays = replace(step, kv_cache=transposed_keys(step.kv_cache)).arrays()
    arrays += [] if case.slopes is None else [case.slopes]
    arrays += random_rotary(step) if case.rotary else []
    kernel = attention_kernel(shape, case.tile)
    attended, kv_cache = call(kernel, case.mcpu, arrays, [(step.query.shape, np.float32)], in_place=[3])
    return attended, straight_keys(kv_cache)


def check(case: Case, step: AttentionStep) -> tuple[Array, Array]:
    """Run, and compare with float64."""
    attended, kv_cache = run(case, step)
    rotary = random_rotary(step) if case.rotary else None
    expected_cache = append(step, rotary)
    if rotary is None:
        np.testing.assert_array_equal(kv_cache, expected_cache)
    else:  # rotated in float32, then rounded: at most to the next half
        np.testing.assert_allclose(kv_cache, expected_cache, rtol=2**-10, atol=2**-24)
    expected, _ = attend(step, case.scale, case.slopes, rotary, kv_cache)
    absolute = kv_cache.copy()
    absolute[:, 1] = np.abs(absolute[:, 1])
    magnitude, _ = attend(step, case.scale, case.slopes, rotary, absolute)
    # A bias is rounded itself and in its sum with the score, half a unit of its size each.
    largest_bias = 0.0 if case.slopes is None else float(case.slopes.max() * step.position_ids.max())
    bound = UNIT * (ROUNDINGS + largest_bias) * magnitude
    assert (np.abs(attended - expected) <= bound).all()
    return attended, kv_cache


@each_case
@pytest.mark.parametrize("sequences", SEQUENCES)
def test_against_float64(case: Case, sequences: str) -> None:
    check(case, case_step(case, 0, SEQUENCES[sequences]))


@pytest.mark.parametrize("garbage", [np.inf, -np.inf, 65504.0])
@pytest.mark.parametrize("case", [PAIRED, SLOPED, LOW], ids=str)
def test_what_nobody_wrote_does_not_matter(case: Case, garbage: float) -> None:
    """As NaN above: slots after the last token, pages of nobody, and what the unused part of the table names."""
    for sequences in ("mixed", "decode over chunks"):
        step = case_step(case, 1, SEQUENCES[sequences])
        other = case_step(case, 1, SEQUENCES[sequences], unwritten=garbage)
        np.testing.assert_array_equal(run(case, other)[0], run(case, step)[0])


@pytest.mark.parametrize("case", [PLAIN, LOW], ids=str)
def test_nothing_is_read_beyond_a_row_of_the_table(case: Case) -> None:
    """A block of keys may be longer than the table; what follows it names pages that would end the process."""
    step = case_step(case, 8, [(0, 5), (17, 1)])
    beyond = np.full((1, 2), 2**31 - 1, np.int32)
    check(case, replace(step, page_table=np.concatenate((step.page_table[:, :2], beyond))))


@pytest.mark.parametrize("case", [PAIRED, SLOPED, GROUPED, LOW], ids=str)
@pytest.mark.parametrize("chunks", [(1,) * 11, (4, 7), (5, 5, 1), (3, 3, 3, 2)], ids=str)
@pytest.mark.parametrize("before", [0, CHUNK_KEYS - 5])
def test_chunks_equal_the_whole(case: Case, before: int, chunks: Sequence[int]) -> None:
    """Bit by bit, whichever tokens share a tile."""
    step = case_step(case, 2, [(before, sum(chunks))])
    whole, whole_cache = run(case, step)
    kv_cache, begin = step.kv_cache, 0
    for size in chunks:
        chunk = np.arange(begin, begin + size)
        attended, kv_cache = run(case, step.tokens(chunk, kv_cache))
        np.testing.assert_array_equal(attended, whole[chunk])
        begin += size
    np.testing.assert_array_equal(kv_cache, whole_cache)


@each_case
def test_splitting_a_context_changes_no_bit(case: Case) -> None:
    """A step of few tokens deals chunks to threads; the same tokens among many do not."""
    few = case_step(case, 3, [(CHUNK_KEYS + 200, 1), (2 * CHUNK_KEYS - 1, 2), (CHUNK_KEYS - 1, 1), (7, 1), (0, 1)])
    assert len(few.seq_ids) <= MOST_SPLIT_TOKENS and few.page_table.shape[1] * PAGE_TOKENS > CHUNK_KEYS
    order = np.resize(np.arange(len(few.seq_ids)), 3 * MOST_SPLIT_TOKENS)  # the same tokens several times
    split, split_cache = run(case, few)
    together, together_cache = run(case, few.tokens(order, few.kv_cache))
    np.testing.assert_array_equal(together, split[order])
    np.testing.assert_array_equal(together_cache, split_cache)
    for token in range(len(few.seq_ids)):
        np.testing.assert_array_equal(run(case, few.tokens([token], split_cache))[0][0], split[token])


@pytest.mark.parametrize("case", [PLAIN, PAIRED, GROUPED, LOW], ids=str)
def test_the_order_of_tokens_does_not_matter(case: Case) -> None:
    """Neighbours of one sequence share a tile, neighbours of several do not."""
    step = case_step(case, 4, [(20, 7), (64, 8), (0, 9), (3, 1)])
    attended, kv_cache = run(case, step)
    for seed in range(3):
        shuffled = np.random.default_rng(seed).permutation(len(step.seq_ids))
        again, again_cache = run(case, step.tokens(shuffled, step.kv_cache))
        np.testing.assert_array_equal(again, attended[shuffled])
        np.testing.assert_array_equal(again_cache, kv_cache)


@pytest.mark.parametrize("magnitude", [1e-4, 30.0, 200.0])
@pytest.mark.parametrize("case", [PLAIN, CASES[12]], ids=str)
def test_scores_of_any_size(case: Case, magnitude: float) -> None:
    """A softmax that does not subtract its maximum would overflow; one that starts from zero would vanish."""
    step = case_step(case, 5, [(0, 9), (20, 2), (CHUNK_KEYS, 1)])
    for sign in (1, -1):
        query = sign * np.abs(step.query) * np.float32(magnitude)
        large = replace(step, query=query, key=np.abs(step.key) * np.float32(magnitude))
        attended, kv_cache = run(case, large)
        expected, expected_cache = attend(large, case.scale)
        np.testing.assert_array_equal(kv_cache, expected_cache)
        np.testing.assert_allclose(attended, expected, rtol=2e-3, atol=2e-4)


def test_keys_and_values_are_rounded_to_the_nearest_half() -> None:
    step = case_step(PLAIN, 6, [(0, 3)])
    ties = np.float32(1) + np.arange(step.key.size, dtype=np.float32).reshape(step.key.shape) * np.float32(2**-11)
    subnormal = np.linspace(-3e-7, 3e-7, step.key.size, dtype=np.float32).reshape(step.key.shape)
    edge = replace(step, key=ties, value=subnormal)
    np.testing.assert_array_equal(run(PLAIN, edge)[1], append(edge))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize("case", [SLOPED, GROUPED, LOW], ids=str)
@pytest.mark.parametrize("sequences", ["mixed", "decode over chunks"])
def test_two_threads_equal_one(case: Case, sequences: str) -> None:
    require(case.mcpu)
    step = case_step(case, 7, SEQUENCES[sequences])
    attended, kv_cache = with_threads(1, lambda: run(case, step))
    for again, cache_again in with_threads(2, lambda: [run(case, step) for _ in range(20)]):
        np.testing.assert_array_equal(again, attended)
        np.testing.assert_array_equal(cache_again, kv_cache)
