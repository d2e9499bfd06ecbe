"""The paged attention kernel against float64, on the host's CPU and the lowest one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from attention_reference import Array, AttentionStep, attend, random_step
from compiled_kernels import TARGETS, compile_kernels, to_device, with_threads

from vamc_compiler.kernels.paged_attention import PAGED_ATTENTION

PAGE_TOKENS = 4
SHAPES = {
    # query heads, key/value heads, head width, ALiBi
    "head width 32": (2, 2, 32, False),
    "head width 40": (3, 3, 40, True),
    "head width 48, grouped": (6, 2, 48, False),
    "head width 80": (1, 1, 80, True),
    "head width 128, one key/value head": (5, 1, 128, False),
    "head width 128, grouped, slopes": (8, 2, 128, True),
    "head width 6": (2, 1, 6, True),
}
SEQUENCES: dict[str, Sequence[tuple[int, int]]] = {
    "one token": [(0, 1)],
    "prefill across pages": [(0, 23)],
    "decode at page borders": [(3, 1), (4, 1), (5, 1), (70, 1)],
    "mixed": [(0, 9), (13, 1), (6, 7), (8, 4), (1, 1)],
}


def scale_of(name: str) -> float:
    return float(SHAPES[name][2] ** -0.5)


@pytest.fixture(scope="module", params=TARGETS)
def machine(request: pytest.FixtureRequest) -> Any:
    kernels = {}
    for name, (heads, kv_heads, head_dim, alibi) in SHAPES.items():
        inputs = [
            (("n", heads, head_dim), "float32"),
            (("n", kv_heads, head_dim), "float32"),
            (("n", kv_heads, head_dim), "float32"),
            (("pages", 2, kv_heads, PAGE_TOKENS, head_dim), "float16"),
            (("n",), "int32"),
            (("n",), "int32"),
            (("b", "p"), "int32"),
            *([((heads,), "float32")] if alibi else []),
        ]

        def emit(builder: Any, *arguments: Any, name: str = name) -> Any:
            slopes = arguments[7] if len(arguments) > 7 else None
            return PAGED_ATTENTION.emit(builder, *arguments[:7], scale=scale_of(name), slopes=slopes)

        kernels[name] = (inputs, emit)
    return compile_kernels(kernels, request.param)


def slopes_of(name: str) -> Array | None:
    heads, _, _, alibi = SHAPES[name]
    return np.linspace(0.5, 0.0, heads).astype(np.float32) if alibi else None


def run(machine: Any, name: str, step: AttentionStep) -> tuple[Array, Array]:
    """The result, and the cache that was passed in, after the call."""
    arguments = [to_device(array) for array in step.arrays()]
    slopes = slopes_of(name)
    attended, kv_cache = machine[name](*arguments, *([] if slopes is None else [to_device(slopes)]))
    np.testing.assert_array_equal(kv_cache.numpy(), arguments[3].numpy())
    return attended.numpy(), arguments[3].numpy()


@pytest.mark.parametrize("sequences", SEQUENCES)
@pytest.mark.parametrize("name", SHAPES)
def test_against_the_reference(machine: Any, name: str, sequences: str) -> None:
    heads, kv_heads, head_dim, _ = SHAPES[name]
    # What nobody wrote is NaN: reading one element too many shows.
    step = random_step(
        np.random.default_rng(0), heads, kv_heads, head_dim, PAGE_TOKENS, SEQUENCES[sequences], unwritten=np.nan
    )
    attended, kv_cache = run(machine, name, step)
    expected, expected_cache = attend(step, scale_of(name), slopes_of(name))
    np.testing.assert_allclose(attended, expected, rtol=3e-5, atol=3e-6)
    np.testing.assert_array_equal(kv_cache, expected_cache)


@pytest.mark.parametrize("chunks", [(1,) * 11, (4, 7), (5, 5, 1)], ids=str)
def test_chunks_equal_the_whole(machine: Any, chunks: Sequence[int]) -> None:
    name = "head width 128, grouped, slopes"
    step = random_step(np.random.default_rng(1), 8, 2, 128, PAGE_TOKENS, [(0, 11)])
    whole, whole_cache = attend(step, scale_of(name), slopes_of(name))
    kv_cache, begin = step.kv_cache, 0
    for size in chunks:
        chunk = np.arange(begin, begin + size)
        attended, kv_cache = run(machine, name, step.tokens(chunk, kv_cache))
        np.testing.assert_allclose(attended, whole[chunk], rtol=3e-5, atol=3e-6)
        begin += size
    np.testing.assert_array_equal(kv_cache, whole_cache)


@pytest.mark.parametrize("magnitude", [1e-4, 30.0, 200.0])
def test_scores_of_any_size(machine: Any, magnitude: float) -> None:
    """A softmax that does not subtract its maximum would overflow; one that starts from zero would vanish."""
    name = "head width 32"
    step = random_step(np.random.default_rng(2), 2, 2, 32, PAGE_TOKENS, [(0, 9), (20, 2)])
    for sign in (1, -1):
        key = np.abs(step.key) * np.float32(magnitude)
        large = AttentionStep(**{**vars(step), "query": sign * np.abs(step.query) * np.float32(magnitude), "key": key})
        attended, _ = run(machine, name, large)
        expected, _ = attend(large, scale_of(name))
        np.testing.assert_allclose(attended, expected, rtol=2e-3, atol=2e-4)


def test_keys_and_values_are_rounded_to_the_nearest_half(machine: Any) -> None:
    step = random_step(np.random.default_rng(3), 2, 2, 32, PAGE_TOKENS, [(0, 3)])
    ties = np.float32(1) + np.arange(3 * 2 * 32, dtype=np.float32).reshape(3, 2, 32) * np.float32(2**-11)
    subnormal = np.linspace(-3e-7, 3e-7, 3 * 2 * 32, dtype=np.float32).reshape(3, 2, 32)
    edge = AttentionStep(**{**vars(step), "key": ties, "value": subnormal})
    _, kv_cache = run(machine, "head width 32", edge)
    np.testing.assert_array_equal(kv_cache, attend(edge, 1.0)[1])


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize("name", ["head width 40", "head width 128, grouped, slopes"])
def test_two_threads_equal_one(machine: Any, name: str) -> None:
    heads, kv_heads, head_dim, _ = SHAPES[name]
    step = random_step(np.random.default_rng(4), heads, kv_heads, head_dim, PAGE_TOKENS, [(0, 40), (30, 1), (9, 25)])
    attended, kv_cache = with_threads(1, lambda: run(machine, name, step))
    np.testing.assert_allclose(attended, attend(step, scale_of(name), slopes_of(name))[0], rtol=3e-5, atol=3e-6)
    for again, cache_again in with_threads(2, lambda: [run(machine, name, step) for _ in range(20)]):
        np.testing.assert_array_equal(again, attended)
        np.testing.assert_array_equal(cache_again, kv_cache)
