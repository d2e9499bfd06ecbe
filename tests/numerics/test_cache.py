"""Prompts in one step, in several and in a batch are one function. `vamc verify` compares single sequences only."""

from __future__ import annotations

from typing import Any

import pytest
from fixture_types import CompileDemo, HeldOut, Reference

from vamc_runtime import LLM, SamplingParams

MODELS = ["baichuan2-13b-mini", "baichuan2-7b-mini", "llama-mini"]
GREEDY = SamplingParams(max_new_tokens=24, ignore_eos=True)


@pytest.mark.parametrize("model", MODELS)
def test_a_batch_equals_each_prompt_alone(model: Any, compile_demo: CompileDemo, held_out: HeldOut) -> None:
    tokens = held_out(model)
    prompts = [tokens[:1], tokens[3:40], tokens[50:67], tokens[100:400]]  # the last one takes two prefill steps
    with LLM(compile_demo(model)) as llm:
        together = llm.generate(prompts, GREEDY)
        alone = [llm.generate([prompt], GREEDY)[0] for prompt in prompts]
    assert together == alone


def test_a_prompt_longer_than_one_step_is_prefilled_in_chunks(
    compile_demo: CompileDemo, held_out: HeldOut, reference: Reference
) -> None:
    model = "llama-mini"
    tokens = held_out(model)
    with LLM(compile_demo(model)) as llm:
        assert len(tokens) > llm.manifest.limits.max_prefill_tokens
        first = llm.generate([tokens], SamplingParams(max_new_tokens=1, ignore_eos=True))[0].token_ids[0]
        logits = llm.logits(tokens)
        assert (llm.logits(tokens, chunk_tokens=100) == logits).all()
    assert first == logits[-1].argmax() == reference(model, tokens)[-1].argmax()
