"""Generation settings: transformers' own processors as oracle, what is not followed, and wrong values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vamc_runtime.errors import UserError
from vamc_runtime.generation_config import check_token_ids, sampling_of, unsupported
from vamc_runtime.sampling import Sampler, SamplingParams, distribution

VOCAB = 60
EOS = (2, 5)
FILE = Path("ck/generation_config.json")
GREEDY: list[dict[str, Any]] = [
    {"min_new_tokens": 6},
    {"min_length": 14},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3, "repetition_penalty": 1.3},
    {"bad_words_ids": [[7], [2], [8, 9], [11, 12, 13]]},
    {"sequence_bias": [[[3], 4.5], [[4, 6], -3.0], [[10, 11, 12], 2.5]], "repetition_penalty": 0.8},
    {"suppress_tokens": [1, 3, 999], "begin_suppress_tokens": [5, 9]},
    {"forced_eos_token_id": 5},
    {"forced_eos_token_id": [5, 2], "bad_words_ids": [[5]]},
    {"forced_bos_token_id": 17, "begin_suppress_tokens": [0, 1, 2, 3]},
    {"exponential_decay_length_penalty": [2, 1.4]},
]
SAMPLING: list[dict[str, Any]] = [
    {"min_p": 0.2},
    {"typical_p": 0.6},
    {"epsilon_cutoff": 0.02},
    {"eta_cutoff": 0.05, "temperature": 1.7},
    {"min_p": 0.05, "typical_p": 0.9, "epsilon_cutoff": 0.003, "eta_cutoff": 0.002, "top_p": 0.95, "top_k": 30},
]


def processors(settings: dict[str, Any], prompt: list[int], max_new_tokens: int) -> Any:
    """What `generate` makes of settings, in its own order."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    tiny: dict[str, int] = {**dict.fromkeys(sizes, 1), "hidden_size": 8, "vocab_size": VOCAB}
    model = LlamaForCausalLM(LlamaConfig(**tiny))
    config = GenerationConfig(**settings, eos_token_id=list(EOS), max_new_tokens=max_new_tokens, pad_token_id=0)
    config.max_length = len(prompt) + max_new_tokens
    model._prepare_special_tokens(config, kwargs_has_attention_mask=True, device=torch.device("cpu"))
    return model._get_logits_processor(config, input_ids_seq_length=len(prompt), device="cpu", model_kwargs={})


@pytest.mark.parametrize("settings", GREEDY)
@pytest.mark.parametrize("prompt", [[10, 11, 12, 10, 8], [4]])
def test_greedy_search_is_transformers(settings: dict[str, Any], prompt: list[int]) -> None:
    import torch

    num_new = 14
    expected_of = processors(settings, prompt, num_new)
    params = sampling_of({**settings, "max_new_tokens": num_new}, FILE)
    sampler = Sampler(params, prompt, frozenset(EOS))
    tokens = list(prompt)
    rng = np.random.default_rng(3)
    for _ in range(num_new):
        # Few levels and one favourite, so that tokens repeat and rules bite.
        logits = (rng.integers(-40, 40, VOCAB) / 8).astype(np.float32)
        logits[rng.choice([2, 5, 7, 8, 9, 11, 12, 13])] = 6.0
        expected = int(expected_of(torch.tensor([tokens]), torch.tensor(logits)[None])[0].argmax())
        assert sampler.sample(logits) == expected
        tokens.append(expected)


@pytest.mark.parametrize("settings", SAMPLING)
def test_cutoffs_of_sampling_are_transformers(settings: dict[str, Any]) -> None:
    import torch

    prompt = [10, 11]
    expected_of = processors({"do_sample": True, "top_k": 50, **settings}, prompt, 8)
    params = sampling_of({"do_sample": True, **settings}, FILE)
    rng = np.random.default_rng(4)
    for scale in (0.3, 1.0, 3.0) * 10:
        logits = (rng.standard_normal(VOCAB) * scale).astype(np.float32)
        scores = expected_of(torch.tensor([prompt]), torch.tensor(logits)[None])[0]
        ids, probabilities = distribution(logits, params)
        found = np.zeros(VOCAB)
        found[ids] = probabilities
        np.testing.assert_allclose(found, scores.softmax(-1).numpy(), atol=2e-6)


def test_every_key_of_transformers_is_followed_neutral_or_listed() -> None:
    from transformers import GenerationConfig

    keys = {key for key in vars(GenerationConfig()) if not key.startswith("_")}
    unknown = [key for key, _, reason in unsupported(dict.fromkeys(keys, "value")) if "no setting" in reason]
    assert unknown == []


def test_what_is_not_followed_is_listed() -> None:
    settings = {"num_beams": 4, "penalty_alpha": 0.6, "num_return_sequences": 1, "stop_words_ids": [[1]], "top_k": 3}
    assert [key for key, _, _ in unsupported(settings)] == ["num_beams", "penalty_alpha", "stop_words_ids"]


def test_penalties_that_transformers_does_not_know_are_listed_and_not_followed() -> None:
    settings = {"presence_penalty": 1.5, "frequency_penalty": 0.0}
    assert sampling_of(settings, FILE).presence_penalty == 0
    ((key, _, reason),) = unsupported(settings)
    assert key == "presence_penalty" and reason.startswith("transformers ignores")
    assert sampling_of(settings, FILE, presence_penalty=0.5).presence_penalty == 0.5


def test_an_end_token_of_minus_one_is_none() -> None:
    sampler = Sampler(SamplingParams(min_new_tokens=3), [1], frozenset([-1]))
    logits = np.arange(VOCAB, dtype=np.float32)
    assert sampler.sample(logits) == VOCAB - 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("top_p", 5),
        ("top_p", "x"),
        ("temperature", [1]),
        ("temperature", float("nan")),
        ("max_new_tokens", 0),
        ("max_new_tokens", float("inf")),
        ("do_sample", "yes"),
        ("bad_words_ids", 5),
        ("bad_words_ids", [5]),
        ("bad_words_ids", [[]]),
        ("bad_words_ids", [["a"]]),
        ("suppress_tokens", [-1]),
        ("sequence_bias", [[1, 2]]),
        ("sequence_bias", {"a": 1}),
        ("forced_eos_token_id", "x"),
        ("exponential_decay_length_penalty", 3),
        ("exponential_decay_length_penalty", [1, "x"]),
        ("stop_strings", 5),
        ("stop_strings", [""]),
        ("repetition_penalty", 0),
    ],
)
def test_a_wrong_value_names_file_and_key(key: str, value: object) -> None:
    name = {"forced_eos_token_id": "forced_eos_token_ids", "stop_strings": "stop"}.get(key, key)
    with pytest.raises(UserError, match=rf"^{FILE}: {name} is "):
        sampling_of({key: value}, FILE)


def test_the_users_own_value_wins_and_is_named_as_such() -> None:
    settings = {"do_sample": True, "max_length": 100, "temperature": 0.5}
    params = sampling_of(settings, FILE, max_new_tokens=7, top_p=None)
    assert (params.max_length, params.max_new_tokens, params.temperature) == (None, 7, 0.5)
    assert sampling_of(settings, FILE).max_output_tokens(60) == 40
    with pytest.raises(UserError, match="max_length is 100"):
        sampling_of(settings, FILE).max_output_tokens(100)
    with pytest.raises(UserError, match=r"^sampling parameter top_p"):
        sampling_of(settings, FILE, top_p=5)


def test_tokens_outside_the_vocabulary() -> None:
    settings = json.loads('{"bad_words_ids": [[1, 70]]}')
    with pytest.raises(UserError, match="bad_words_ids names token 70"):
        check_token_ids(settings, VOCAB, sampling_of(settings, FILE), FILE)
    with pytest.raises(UserError, match="bad_words_ids has token id 70"):
        Sampler(sampling_of(settings, FILE), [1]).sample(np.zeros(VOCAB, np.float32))


def test_rules_that_leave_nothing() -> None:
    params = SamplingParams(suppress_tokens=tuple(range(VOCAB)))
    with pytest.raises(UserError, match="forbid every token"):
        Sampler(params, [1]).sample(np.zeros(VOCAB, np.float32))
