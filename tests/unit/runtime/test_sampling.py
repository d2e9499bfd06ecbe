"""Sampling against a plain float64 reference, its statistics, reproducibility and refusals."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vamc_runtime.errors import UserError
from vamc_runtime.sampling import Sampler, SamplingParams, distribution


def reference_distribution(logits: npt.NDArray[Any], params: SamplingParams) -> npt.NDArray[Any]:
    """float64 [vocab]: what transformers' warpers give, written token by token."""
    scores = [float(value) / params.temperature for value in logits]
    by_rank = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    if params.top_k and params.top_k < len(scores):
        kth = scores[by_rank[params.top_k - 1]]
        by_rank = [i for i in by_rank if scores[i] >= kth]
    weights = np.exp(np.array([scores[i] for i in by_rank]) - scores[by_rank[0]])
    probabilities = weights / weights.sum()
    kept, before = 0, 0.0
    for probability in probabilities:
        if params.top_p < 1.0 and before >= params.top_p and kept >= params.min_tokens_to_keep:
            break
        kept, before = kept + 1, before + probability
    result = np.zeros(len(scores))
    result[by_rank[:kept]] = probabilities[:kept] / probabilities[:kept].sum()
    return result


@settings(deadline=None)  # the machine may be busy
@given(
    # Multiples of 1/8: exact in float32 and after a division by the temperatures, so that ties stay ties.
    logits=hnp.arrays(np.int64, st.integers(1, 60), elements=st.integers(-80, 80)),
    temperature=st.sampled_from([0.25, 0.5, 1.0, 2.0]),
    top_k=st.integers(0, 70),
    top_p=st.floats(0.0, 1.0),
    min_tokens_to_keep=st.integers(1, 5),
)
def test_distribution_is_the_references(
    logits: npt.NDArray[Any], temperature: float, top_k: int, top_p: float, min_tokens_to_keep: int
) -> None:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_tokens_to_keep=min_tokens_to_keep)
    scores = (logits / 8).astype(np.float32)
    ids, probabilities = distribution(scores, params)
    assert probabilities.sum() == pytest.approx(1.0)
    found = np.zeros(scores.size)
    found[ids] = probabilities
    expected = reference_distribution(scores, params)
    if not np.allclose(found, expected, atol=1e-12):
        # Only a cumulative sum within rounding of top_p may differ, by the one token that crosses it.
        nearby = [
            reference_distribution(
                scores,
                SamplingParams(temperature=temperature, top_k=top_k, top_p=p, min_tokens_to_keep=min_tokens_to_keep),
            )
            for p in (max(0.0, top_p - 1e-12), min(1.0, top_p + 1e-12))
        ]
        assert any(np.allclose(found, other, atol=1e-12) for other in nearby)


def test_the_crossing_token_is_kept() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    ids, probabilities = distribution(logits, SamplingParams(temperature=1.0, top_p=0.6))
    assert ids.tolist() == [0, 1]
    np.testing.assert_allclose(probabilities, [0.625, 0.375], rtol=1e-6)
    flat = np.log(np.array([0.2, 0.16, 0.16, 0.16, 0.16, 0.16], np.float32))
    assert distribution(flat, SamplingParams(temperature=1.0, top_p=0.5))[0].tolist() == [0, 1, 2]
    kept = SamplingParams(temperature=1.0, top_p=0.0, min_tokens_to_keep=3)
    assert distribution(logits, kept)[0].tolist() == [0, 1, 2]


def test_draws_have_the_wanted_frequencies() -> None:
    logits = np.array([2.0, -1.0, 1.0, 0.5, -3.0, 1.5], np.float32)
    params = SamplingParams(temperature=0.8, top_k=5, top_p=0.95, seed=20240229)
    sampler, num_draws = Sampler(params, []), 20_000
    counts = np.bincount([sampler.sample(logits) for _ in range(num_draws)], minlength=logits.size)
    expected = reference_distribution(logits, params) * num_draws
    drawn = expected > 0
    assert counts[~drawn].sum() == 0
    chi_square = (((counts - expected) ** 2)[drawn] / expected[drawn]).sum()
    assert chi_square < 20  # 3 or 4 degrees of freedom: 1 in 2000, and the seed is fixed


def test_same_seed_same_tokens_whatever_else_runs() -> None:
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(50, 1000)).astype(np.float32)
    params = SamplingParams(temperature=1.0, top_p=0.9, seed=7)
    alone = Sampler(params, [1])
    expected = [alone.sample(step) for step in steps]
    mixed, other = Sampler(params, [1]), Sampler(SamplingParams(temperature=2.0, seed=7), [2])
    found = []
    for step in steps:
        other.sample(step)
        found.append(mixed.sample(step))
    assert found == expected
    different = Sampler(SamplingParams(temperature=1.0, top_p=0.9, seed=8), [1])
    assert [different.sample(step) for step in steps] != expected


def test_greedy_takes_the_lowest_id_on_ties_and_leaves_the_logits_alone() -> None:
    logits = np.array([1.0, 3.0, 3.0, -1.0], np.float32)
    sampler = Sampler(SamplingParams(repetition_penalty=1.5), [1])
    before = logits.copy()
    assert Sampler(SamplingParams(), []).sample(logits) == 1
    assert sampler.sample(logits) == 2
    np.testing.assert_array_equal(logits, before)


def test_penalties_follow_their_formulas() -> None:
    logits = np.array([4.0, -2.0, 1.0, 0.0, 3.0], np.float32)
    params = SamplingParams(repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25)
    sampler = Sampler(params, [0, 1])
    assert sampler.sample(logits) == 4  # prompt: 4/2 = 2, -2*2 = -4
    # token 4 was generated once: 3/2 - 0.5 - 0.25 = 0.75
    np.testing.assert_allclose(sampler._adjusted(logits), [2.0, -4.0, 1.0, 0.0, 0.75])
    assert sampler.sample(logits) == 0
    np.testing.assert_allclose(sampler._adjusted(logits), [1.25, -4.0, 1.0, 0.0, 0.75])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("penalty", "expected"), [(5e-324, 1), (1.7e308, 3)])
def test_the_most_extreme_penalties_still_choose(temperature: float, penalty: float, expected: int) -> None:
    params = SamplingParams(repetition_penalty=penalty, temperature=temperature, seed=0)
    logits = np.array([-1.0, 20.0, -30.0, 19.0, -900.0], np.float32)  # 0, 1 and 2 were there before
    assert Sampler(params, [0, 1, 2]).sample(logits) == expected


def test_a_tiny_temperature_is_greedy() -> None:
    logits = np.array([80.0, 90.0, -90.0], np.float32)
    assert Sampler(SamplingParams(temperature=1e-300, seed=0), []).sample(logits) == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_our_bug(bad: float, temperature: float) -> None:
    logits = np.array([0.0, bad, 1.0], np.float32)
    with pytest.raises(RuntimeError, match="1 of 3 logits are NaN or infinite"):
        Sampler(SamplingParams(temperature=temperature), []).sample(logits)


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 50}, {"top_p": 0.9}, {"top_k": 50, "top_p": 0.9, "repetition_penalty": 1.05}]
)
def test_a_large_vocabulary_is_fast_enough(options: dict[str, Any]) -> None:
    logits = (np.random.default_rng(1).normal(size=125_696) * 3).astype(np.float32)
    sampler = Sampler(SamplingParams(temperature=0.7, seed=1, **options), range(1000))
    sampler.sample(logits)
    start = time.process_time()
    for _ in range(5):
        sampler.sample(logits)
    # Measured below 5 ms; the bound only catches an accidental full sort in Python.
    assert (time.process_time() - start) / 5 < 0.1


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("max_new_tokens", 0, "at least 1"),
        ("max_new_tokens", 1.5, "whole number"),
        ("max_new_tokens", True, "whole number"),
        ("temperature", -0.1, "at least 0"),
        ("temperature", float("nan"), "at least 0"),
        ("temperature", float("inf"), "at least 0"),
        ("temperature", "hot", "number"),
        ("temperature", 10**400, "at least 0"),
        ("top_k", -1, "at least 0"),
        ("top_p", 1.01, "from 0 to 1"),
        ("top_p", float("nan"), "from 0 to 1"),
        ("min_tokens_to_keep", 0, "at least 1"),
        ("repetition_penalty", 0.0, "above 0"),
        ("presence_penalty", 2.5, "from -2 to 2"),
        ("frequency_penalty", -3, "from -2 to 2"),
        ("seed", -1, "at least 0"),
        ("seed", "1", "whole number"),
        ("stop", "end", "tuple"),
        ("stop", ("",), "none of them empty"),
        ("ignore_eos", 1, "True or False"),
    ],
)
def test_bad_values(field: str, value: Any, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        SamplingParams(**{field: value})
    assert field in caught.value.found and repr(value)[:100] in caught.value.found and expected in caught.value.expected


BAICHUAN2 = {
    "do_sample": True,
    "temperature": 0.3,
    "top_k": 5,
    "top_p": 0.85,
    "repetition_penalty": 1.05,
    "max_new_tokens": 2048,
    "user_token_id": 195,
}


def test_generation_config_of_baichuan2() -> None:
    params = SamplingParams.from_generation_config(BAICHUAN2, seed=1, max_new_tokens=10, top_p=None)
    assert params == SamplingParams(
        max_new_tokens=10, temperature=0.3, top_k=5, top_p=0.85, repetition_penalty=1.05, seed=1
    )


def test_generation_config_defaults_are_those_of_transformers() -> None:
    assert SamplingParams.from_generation_config({}) == SamplingParams()
    assert SamplingParams.from_generation_config({"temperature": 0.6, "top_p": None}).temperature == 0
    sampled = SamplingParams.from_generation_config({"do_sample": True})
    assert (sampled.temperature, sampled.top_k, sampled.top_p) == (1.0, 50, 1.0)
    assert SamplingParams.from_generation_config({"do_sample": False}, temperature=0.7).temperature == 0.7
    with pytest.raises(UserError, match="temperature"):
        SamplingParams.from_generation_config({"do_sample": True, "temperature": "warm"})
