"""Measure a demo checkpoint on held-out text: perplexity, top-token margin, and what reduced weights change.

Everything is computed in float32 from the saved bf16 weights through transformers. What is altered: all weights
(fp16), or those of the linears in the decoder layers (int8: one symmetric scale per output channel; w8a8: the same,
and one symmetric scale per token for what goes into them; int4: one symmetric scale per 32 inputs of an output).

Usage: ``python build_in/checkpoints/measure.py [--text KIND] FOLDER [FOLDER ...]``.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from layout import PRESETS
from make_text import DOCUMENT_SEPARATOR, GRAMMARS, Kind, Message, held_out_text
from make_tokenizer import ASSISTANT_TOKEN_ID, EOS_ID, USER_TOKEN_ID
from transformers import AutoModelForCausalLM, AutoTokenizer

WINDOW_TOKENS = 512
INT4_GROUP_INPUTS = 32
PRECISIONS = ("fp16", "int8", "w8a8", "int4")
QUANTIZED_LAYERS = ("W_pack", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PLAIN_PROMPTS = ("The capital of France is", "One morning, Tom the baker", "法国的首都是")
CHAT_PROMPTS = ("What is the capital of Japan?", "Who are you?", "Tell me a short story about Anna.")


def load(folder: Path) -> tuple[Any, Any]:
    """The float32 model and the tokenizer of a checkpoint folder."""
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=True, use_fast=model.config.model_type != "baichuan"
    )
    return model.eval(), tokenizer


def held_out_windows(tokenizer: Any, text: Kind) -> torch.Tensor:
    """A held-out text as token ids [windows, WINDOW_TOKENS]; a last partial window is left out."""
    ids = tokenizer.encode(DOCUMENT_SEPARATOR.join(held_out_text(text)), verbose=False)
    num_windows = len(ids) // WINDOW_TOKENS
    return torch.tensor(ids[: num_windows * WINDOW_TOKENS]).view(num_windows, WINDOW_TOKENS)


@torch.inference_mode()
def logits_of(model: torch.nn.Module, windows: torch.Tensor) -> torch.Tensor:
    """Logits [windows, WINDOW_TOKENS, vocab] in float32."""
    return torch.cat([model(input_ids=window[None]).logits.float() for window in windows])


def perplexity(logits: torch.Tensor, windows: torch.Tensor) -> float:
    """exp of the mean next-token loss in nats, within windows."""
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten())
    return math.exp(loss.item())


def rounded(values: torch.Tensor, levels: int) -> torch.Tensor:
    """``values`` [..., n] after rounding, half to even, to -levels..levels times one scale per row of n."""
    scale = values.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / levels
    return torch.round(values / scale).clamp(-levels, levels) * scale


def int4_in_groups(weight: torch.Tensor) -> torch.Tensor:
    """``weight`` [out, in] with 15 levels and one scale for each INT4_GROUP_INPUTS inputs; the last may be fewer."""
    return torch.cat([rounded(group, 7) for group in weight.split(INT4_GROUP_INPUTS, dim=1)], dim=1)


def quantize_input(_layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """A hook: the input [..., in] of a linear with 255 levels per token."""
    return (rounded(inputs[0], 127), *inputs[1:])


def altered(model: torch.nn.Module, precision: str) -> torch.nn.Module:
    """A copy of ``model`` that computes in one of PRECISIONS."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for name, layer in copied.named_modules():
            for parameter in layer.parameters(recurse=False):
                if precision == "fp16":
                    parameter.copy_(parameter.half().float())
                elif name.endswith(QUANTIZED_LAYERS):
                    parameter.copy_(int4_in_groups(parameter) if precision == "int4" else rounded(parameter, 127))
            if precision == "w8a8" and name.endswith(QUANTIZED_LAYERS):
                layer.register_forward_pre_hook(quantize_input)
    return copied


def report_precision(precision: str, reference: torch.Tensor, logits: torch.Tensor, windows: torch.Tensor) -> None:
    """Print KL(reference || altered) in nats, agreement of the top token, and the perplexity ratio."""
    kl = torch.nn.functional.kl_div(
        logits.log_softmax(-1), reference.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    same = reference.argmax(-1) == logits.argmax(-1)
    ratio = perplexity(logits, windows) / perplexity(reference, windows)
    for scope, rows in (("first 512", slice(0, 1)), ("all", slice(None))):
        print(
            f"{precision} {scope}: mean KL {kl[rows].mean():.2e}, largest {kl[rows].max():.2e}, "
            f"same top token {same[rows].float().mean():.4%} ({int((~same[rows]).sum())} differ)"
        )
    print(f"{precision} perplexity ratio: {ratio:.6f}")


def report_margin(logits: torch.Tensor) -> None:
    """Print how far the top logit leads the second."""
    top = logits.topk(2, dim=-1).values
    gap = (top[..., 0] - top[..., 1]).flatten()
    for scope, values in (("first 512", gap[:WINDOW_TOKENS]), ("all", gap)):
        quantiles = torch.quantile(values, torch.tensor([0.0, 0.01, 0.05, 0.5])).tolist()
        print(
            f"top-1 minus top-2 logit, {scope}: min {quantiles[0]:.4f}, 1 % {quantiles[1]:.3f}, "
            f"5 % {quantiles[2]:.3f}, median {quantiles[3]:.2f}; {int((values < 0.05).sum())} below 0.05"
        )


def chat_ids(model: Any, tokenizer: Any, chat: Sequence[Message]) -> list[int]:
    """Prompt ids for ``chat``, ending where the assistant answers."""
    if model.config.model_type == "llama":
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return list(tokenizer.encode(text, add_special_tokens=False))
    role_ids = {"user": USER_TOKEN_ID, "assistant": ASSISTANT_TOKEN_ID}
    ids: list[int] = []
    for message in chat:
        ids += [role_ids[message["role"]], *tokenizer.encode(message["content"])]
    return [*ids, ASSISTANT_TOKEN_ID]


@torch.inference_mode()
def greedy(model: Any, ids: Sequence[int], max_new_tokens: int = 160) -> list[int]:
    """New token ids after ``ids``, always the likeliest one, up to and including an end token. No cache."""
    stop = model.config.eos_token_id
    stops = set(stop) if isinstance(stop, list) else {stop, EOS_ID}
    new: list[int] = []
    while len(new) < max_new_tokens and not (new and new[-1] in stops):
        logits = model(input_ids=torch.tensor([[*ids, *new]])).logits
        new.append(int(logits[0, -1].argmax()))
    return new


def measure(folder: Path, text: Kind) -> float:
    """Print every measurement of the checkpoint in ``folder``; returns its perplexity on a held-out text."""
    model, tokenizer = load(folder)
    windows = held_out_windows(tokenizer, text)
    reference = logits_of(model, windows)
    result = perplexity(reference, windows)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{folder.name}: {num_parameters} parameters, {windows.numel()} held-out tokens")
    print(f"held-out perplexity (windows of {WINDOW_TOKENS} tokens, bf16 weights, float32): {result:.4f}")
    report_margin(reference)
    for precision in PRECISIONS:
        report_precision(precision, reference, logits_of(altered(model, precision), windows), windows)
    for prompt in PLAIN_PROMPTS:
        answer = greedy(model, tokenizer.encode(prompt))
        print(f"--- {prompt!r} ({len(answer)} tokens)\n{tokenizer.decode(answer)}")
    for prompt in CHAT_PROMPTS:
        answer = greedy(model, chat_ids(model, tokenizer, [{"role": "user", "content": prompt}]))
        print(f"--- chat {prompt!r} ({len(answer)} tokens)\n{tokenizer.decode(answer)}")
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the folders named on the command line."""
    parser = argparse.ArgumentParser(description="Measure demo checkpoints on held-out text.")
    parser.add_argument("folder", type=Path, nargs="+", help="checkpoint folder")
    parser.add_argument("--text", choices=sorted(GRAMMARS), help="held-out text (default: of the folder's name)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for folder in options.folder:
        preset = PRESETS.get(folder.name)
        measure(folder, options.text or (preset.text if preset else "village"))


if __name__ == "__main__":
    main()
