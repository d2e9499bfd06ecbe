"""Prefill, chunked prefill, cached decode and batches are one function: they must agree with one another."""

from __future__ import annotations

import numpy as np
import pytest

from vamc_runtime import LLM, SamplingParams

MODELS = ["baichuan2-13b-mini", "baichuan2-7b-mini", "llama-mini"]
TOLERANCE = 1e-4
GREEDY = SamplingParams(max_new_tokens=24, ignore_eos=True)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("chunk_tokens", [1, 7, 16, 100])
def test_chunks_and_decode_equal_one_prefill(model, chunk_tokens, compile_demo, held_out, record):
    tokens = held_out(model)[:200]
    with LLM(compile_demo(model)) as llm:
        whole = llm.logits(tokens)
        parts = llm.logits(tokens, chunk_tokens=chunk_tokens)
    difference = float(np.abs(whole - parts).max())
    record.add(
        "cached decode (chunks of 1) and chunked prefill against one prefill",
        f"{model}, chunks of {chunk_tokens}",
        {f"largest logit difference (at most {TOLERANCE:.0e})": f"{difference:.1e}"},
    )
    assert difference <= TOLERANCE


@pytest.mark.parametrize("model", MODELS)
def test_a_batch_equals_each_prompt_alone(model, compile_demo, held_out):
    tokens = held_out(model)
    prompts = [tokens[:1], tokens[3:40], tokens[50:67], tokens[100:400]]  # the last one takes two prefill steps
    with LLM(compile_demo(model)) as llm:
        together = llm.generate(prompts, GREEDY)
        alone = [llm.generate([prompt], GREEDY)[0] for prompt in prompts]
    assert together == alone


def test_a_prompt_longer_than_one_step_is_prefilled_in_chunks(compile_demo, held_out, reference):
    model = "llama-mini"
    tokens = held_out(model)
    with LLM(compile_demo(model)) as llm:
        assert len(tokens) > llm.manifest.limits.max_prefill_tokens
        first = llm.generate([tokens], SamplingParams(max_new_tokens=1, ignore_eos=True))[0].token_ids[0]
    assert first == reference(model, tokens)[-1].argmax()
