"""The compiled model against the original in float32, on text neither has seen."""

from __future__ import annotations

import pytest
from metrics import compare

from vamc_runtime import LLM

MODELS = ["baichuan2-13b-mini", "baichuan2-7b-mini", "llama-mini"]


EVERY_MODEL = [("fp16", 1e-5, 0.999, 1.001), ("int8", 1e-3, 0.99, 1.005), ("w8a8", 1e-4, 0.99, 1.002)]
ONE_MODEL = [
    ("bf16", 1e-5, 0.999, 1.001),
    ("fp16 prefill bf16", 1e-5, 0.999, 1.001),
    ("int8 with head", 1e-4, 0.99, 1.002),
]


@pytest.mark.parametrize(
    ("model", "precision", "mean_kl", "same_top", "perplexity_ratio"),
    [
        *((model, *bounds) for bounds in EVERY_MODEL for model in MODELS),
        *(("llama-mini", *bounds) for bounds in ONE_MODEL),
    ],
)
def test_compiled_model_agrees_with_the_original(
    model, precision, mean_kl, same_top, perplexity_ratio, compile_demo, reference, held_out, record
):
    tokens = held_out(model)
    with LLM(compile_demo(model, precision)) as llm:
        found = compare(reference(model, tokens), llm.logits(tokens), tokens)
    record.add(
        f"{precision} runstream against the float32 model, {len(tokens)} held-out tokens",
        model,
        {
            f"mean KL (at most {mean_kl:.0e})": f"{found.mean_kl:.1e}",
            f"same top token (at least {same_top:.1%})": f"{found.same_top:.2%}",
            f"perplexity ratio (at most {perplexity_ratio})": f"{found.perplexity_ratio:.5f}",
            "largest logit difference": f"{found.max_difference:.1e}",
        },
    )
    assert found.mean_kl <= mean_kl
    assert found.same_top >= same_top
    assert found.perplexity_ratio <= perplexity_ratio
