"""What the demo models are for: two are sure of every word, one is not and shows what a precision costs."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from fixture_types import HeldOut
from golden.cases import CHECKPOINTS, held_out_text

from vamc_runtime.text.tokenizer import load_tokenizer

QUANTIZED = ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj")
UNSURE = "baichuan2-7b-mini"
WINDOW_TOKENS = 512


@pytest.mark.parametrize(
    ("model", "least", "most"), [("baichuan2-13b-mini", 1, 1.4), ("llama-mini", 1, 1.4), (UNSURE, 3, 4)]
)
def test_how_sure_a_model_is(model: str, least: float, most: float) -> None:
    """Perplexity over the whole held-out text, in windows."""
    from transformers import AutoModelForCausalLM

    path = CHECKPOINTS / model
    loaded = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True, dtype=torch.float32).eval()
    ids = load_tokenizer(path).encode(held_out_text(model))
    windows = torch.tensor(ids[: len(ids) // WINDOW_TOKENS * WINDOW_TOKENS]).view(-1, WINDOW_TOKENS)
    with torch.no_grad():
        losses = [
            torch.nn.functional.cross_entropy(loaded(window[None]).logits[0, :-1], window[1:]) for window in windows
        ]
    assert least < math.exp(torch.stack(losses).mean()) < most


def rounded(values: torch.Tensor, levels: int) -> torch.Tensor:
    """The nearest of `levels` either way, times one scale per row."""
    scale = values.abs().amax(-1, keepdim=True) / levels
    return (values / scale).round() * scale


@torch.no_grad()
def logits_in(model: Any, tokens: list[int], weight_levels: int, input_levels: int) -> torch.Tensor:
    """Log-probabilities float64 [t, v] with rounded weights and inputs of linear layers; 0 levels leave them."""
    changed = copy.deepcopy(model)
    for name, layer in changed.named_modules():
        if name.endswith(QUANTIZED):
            layer.weight.copy_(rounded(layer.weight, weight_levels))
            if input_levels:
                layer.register_forward_pre_hook(lambda _layer, inputs: (rounded(inputs[0], input_levels),))
    result: torch.Tensor = changed(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    return result


def test_precisions_differ_in_what_they_cost(held_out: HeldOut) -> None:
    """Mean KL 3e-6, 5e-5 and more with 4-bit rows: each an order of magnitude apart, and tokens that turn."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(CHECKPOINTS / UNSURE, trust_remote_code=True, dtype=torch.float32)
    tokens = held_out(UNSURE)
    with torch.no_grad():
        exact = model.eval()(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    kl, turned = [], []
    for weight_levels, input_levels in ((127, 0), (127, 127), (7, 0)):
        found = logits_in(model, tokens, weight_levels, input_levels)
        kl.append(float((exact.exp() * (exact - found)).sum(-1).mean()))
        turned.append(int((exact.argmax(-1) != found.argmax(-1)).sum()))
    assert 1e-6 < kl[0] < kl[1] / 5 and kl[1] < kl[2] / 5 < 1e-1
    assert 0 < turned[0] < turned[1] < turned[2] < len(tokens) // 10


@pytest.mark.parametrize(("kind", "file"), [("village", "held_out.txt"), ("gazette", "held_out_gazette.txt")])
def test_the_held_out_texts_are_what_the_grammars_write(kind: str, file: str) -> None:
    command = [sys.executable, str(CHECKPOINTS / "make_text.py"), "--kind", kind, "--held-out"]
    written = subprocess.run(command, capture_output=True, check=True).stdout
    assert written == (CHECKPOINTS / file).read_bytes()
