"""Train one demo checkpoint on generated text and write it in the published layout.

``python build_in/checkpoints/train.py baichuan2-13b-mini [--output FOLDER] [--steps N]`` takes a few minutes
on two cores. Everything is seeded; weights are trained in float32 and saved as bf16. The output folder is
replaced only once the new one is complete. Results agree between machines in quality, not bit by bit.
"""

from __future__ import annotations

import argparse
import math
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from layout import HERE, PRESETS, Preset, write_everything_but_weights, write_weights
from make_text import DOCUMENT_SEPARATOR, HELD_OUT_SEED, Message, generate_chats, generate_text
from make_tokenizer import ASSISTANT_TOKEN_ID, BOS_ID, EOS_ID, USER_TOKEN_ID
from measure import measure
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

NUM_TOKENIZER_DOCUMENTS = 3000
DOCUMENTS_PER_BLOCK = 2000  # text is generated in blocks, each with its own seed
CHAT_SHARE = 0.35
JOINED_SHARE = 0.10  # documents that stand in one text, separated by blank lines, as in held_out.txt
CUT_ROW_SHARE = 0.2  # rows that start inside a document, up to MAX_SKIPPED_TOKENS after its start
MAX_SKIPPED_TOKENS = 64
TOKENS_PER_STEP = 2048
LENGTH_CYCLE_TOKENS = (256, 256, 256, 512, 256, 256, 256, 1024)  # longer rows teach RoPE the longer distances
PEAK_LEARNING_RATE = 3e-3
FINAL_LEARNING_RATE_SHARE = 0.02
WARMUP_STEPS = 40
WEIGHT_DECAY = 0.1
MAX_GRADIENT_NORM = 1.0


def encode_chat(preset: Preset, tokenizer: Any, chat: Sequence[Message]) -> list[int]:
    """Ids of a whole chat in the form inference uses; every answer is followed by an end token."""
    if preset.family == "llama":
        return list(tokenizer.encode(tokenizer.apply_chat_template(chat, tokenize=False), add_special_tokens=False))
    ids: list[int] = []
    for message in chat:
        text = tokenizer.encode(message["content"])
        ids += [USER_TOKEN_ID, *text] if message["role"] == "user" else [ASSISTANT_TOKEN_ID, *text, EOS_ID]
    return ids


def encode_text(preset: Preset, tokenizer: Any, text: str) -> list[int]:
    """Ids of one document in the form inference uses, and an end token. Baichuan2 adds no BOS to a prompt."""
    bos = [BOS_ID] if preset.family == "llama" else []
    return [*bos, *tokenizer.encode(text, add_special_tokens=False), EOS_ID]


def documents(preset: Preset, tokenizer: Any) -> Iterator[list[int]]:
    """An endless stream of encoded documents and chats."""
    block = preset.seed * 100_000
    while True:
        assert block != HELD_OUT_SEED, "training ran into the held-out seed"
        rng = random.Random(f"mix:{block}")
        chats = iter(generate_chats(preset.text, block, DOCUMENTS_PER_BLOCK))
        texts = iter(generate_text(preset.text, block, DOCUMENTS_PER_BLOCK))
        for text in texts:
            while rng.random() < CHAT_SHARE:
                yield encode_chat(preset, tokenizer, next(chats))
            joined = [text]
            if rng.random() < JOINED_SHARE:
                joined += [follower for _, follower in zip(range(rng.randint(4, 12)), texts, strict=False)]
            yield encode_text(preset, tokenizer, DOCUMENT_SEPARATOR.join(joined))
        block += 1


def batches(preset: Preset, tokenizer: Any) -> Iterator[torch.Tensor]:
    """An endless stream of int64 ids [rows, length].

    Most rows start with a document, as prompts do; some start inside one, as windows over a long text do.
    """
    stream = documents(preset, tokenizer)
    rng = random.Random(f"rows:{preset.seed}")
    while True:
        for length in LENGTH_CYCLE_TOKENS:
            rows = []
            for _ in range(TOKENS_PER_STEP // length):
                row: list[int] = []
                skip = rng.randrange(1, MAX_SKIPPED_TOKENS) if rng.random() < CUT_ROW_SHARE else 0
                while len(row) < skip + length:
                    row += next(stream)
                rows.append(row[skip : skip + length])
            yield torch.tensor(rows)


def learning_rate_share(step: int, steps: int) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine down to FINAL_LEARNING_RATE_SHARE."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return FINAL_LEARNING_RATE_SHARE + (1 - FINAL_LEARNING_RATE_SHARE) * cosine


def make_optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW; decay keeps the layers' matrices small and without outliers, which int8 per channel rewards."""
    decayed: list[torch.nn.Parameter] = []
    plain: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (decayed if ".layers." in name and parameter.dim() == 2 else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95))


def train(preset: Preset, model: Any, tokenizer: Any, steps: int) -> None:
    """Run ``steps`` optimizer steps of TOKENS_PER_STEP tokens and print the loss on the way."""
    optimizer = make_optimizer(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, steps))
    model.train()
    started, recent = time.monotonic(), 0.0
    for step, ids in zip(range(1, steps + 1), batches(preset, tokenizer), strict=False):
        logits = model(input_ids=ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        recent += (loss.item() - recent) / min(step, 20)
        if step % 20 == 0 or step == steps:
            elapsed = time.monotonic() - started
            left = elapsed / step * (steps - step)
            print(f"step {step}/{steps}  loss {recent:.4f}  {elapsed:.0f} s, {left:.0f} s left", flush=True)


def replace_folder(new: Path, target: Path) -> None:
    """Put ``new`` in the place of ``target`` by renaming."""
    old = target.with_name(f"{target.name}-old")
    if target.exists():
        target.rename(old)
    new.rename(target)
    if old.exists():
        shutil.rmtree(old)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the checkpoint named on the command line, write it, and measure what was written."""
    parser = argparse.ArgumentParser(description="Train a demo checkpoint.")
    parser.add_argument("preset", choices=sorted(PRESETS), help="which checkpoint")
    parser.add_argument("--output", type=Path, help="folder to write (default: the committed one)")
    parser.add_argument("--steps", type=int, default=800, help=f"steps of {TOKENS_PER_STEP} tokens (default 800)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    options = parser.parse_args(arguments)
    preset = PRESETS[options.preset]
    output: Path = (options.output or HERE / preset.name).resolve()
    torch.set_num_threads(options.threads)
    torch.manual_seed(preset.seed)

    partial = output.with_name(f"{output.name}-partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        texts = generate_text(preset.text, 0, NUM_TOKENIZER_DOCUMENTS)
        chats = generate_chats(preset.text, 0, NUM_TOKENIZER_DOCUMENTS // 2)
        texts += [message["content"] for chat in chats for message in chat]
        write_everything_but_weights(preset, partial, texts)
        # The model is built from the files just written, so what is trained is what is shipped.
        config = AutoConfig.from_pretrained(partial, trust_remote_code=True)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=True, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(partial, trust_remote_code=True, use_fast=preset.family == "llama")
        train(preset, model, tokenizer, options.steps)
        write_weights(preset, partial, model.state_dict())
        replace_folder(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    measure(output, preset.text)


if __name__ == "__main__":
    main()
