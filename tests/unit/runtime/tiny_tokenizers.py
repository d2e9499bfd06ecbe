"""Tokenizers like those of published checkpoints, trained in a moment on a few lines, for tests."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path
from typing import Any

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Hello world, this is a tiny text about compilers and caches.",
    "你好，世界。今天天气很好，我们去公园散步。",
    "def main():\n    return 'value'  # two  spaces",
) * 8


@functools.cache
def sentencepiece_model() -> bytes:
    """A LLaMA-like tokenizer.model: BPE, byte fallback, dummy prefix, spaces kept."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["<reserved_1>", "<reserved_2>"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()


@functools.cache
def byte_level_json() -> str:
    """A LLaMA-3-like tokenizer.json: byte-level BPE whose post-processor adds BOS."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|begin|>", "<|end|>", "<|eot|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens(["<tool call>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[("<|begin|>", 0)]
    )
    return str(tokenizer.to_str())


@functools.cache
def metaspace_json() -> str:
    """A LLaMA-2-like tokenizer.json: sentencepiece's scheme with byte fallback, as `tokenizers` has it."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>"],
        limit_alphabet=60,
        max_token_length=8,
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS, *(f"<0x{byte:02X}>" for byte in range(256))], trainer)
    # Training makes no byte tokens: put them where LLaMA has them, behind the special ones.
    content = json.loads(tokenizer.to_str())
    vocab = list(content["model"]["vocab"])
    missing = [name for byte in range(256) if (name := f"<0x{byte:02X}>") not in vocab]
    content["model"]["vocab"] = {token: i for i, token in enumerate([*vocab[:3], *missing, *vocab[3:]])}
    return json.dumps(content)


def write_sentencepiece(directory: Path, **files: Any) -> Path:
    """A directory with tokenizer.model, Baichuan's as published unless the config says else, and JSON files by stem."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(sentencepiece_model())
    given = files.pop("tokenizer_config", {})
    published = {"tokenizer_class": "BaichuanTokenizer", "add_bos_token": False, "add_eos_token": False}
    config = {**({} if "tokenizer_class" in given else published), **given}
    return write_files(directory, tokenizer_config=config, **files)


def write_json(directory: Path, content: str, **files: Any) -> Path:
    """A directory with tokenizer.json and JSON files given by stem."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(content, encoding="utf-8")
    return write_files(directory, **files)


def write_files(directory: Path, **files: Any) -> Path:
    for stem, content in files.items():
        (directory / f"{stem}.json").write_text(json.dumps(content), encoding="utf-8")
    return directory
