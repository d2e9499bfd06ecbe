"""Tokenizers of every kind that published checkpoints have, small, as folders; for comparisons with transformers."""

from __future__ import annotations

import io
import json
import random
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

TEXTS = (
    "The quick brown fox jumps over the lazy dog, 1234 times.",
    "Hello world, this is a tiny text about compilers and caches; it's a tiny one.",
    "你好，世界。今天天气很好，我们去公园散步。",
    "def main():\n    return 'value'  # two  spaces\n\n",
    "Größe café naïve über Straße",
) * 6
SPECIAL = ("<unk>", "<s>", "</s>")
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def sentencepiece_model(**options: Any) -> bytes:
    """A tokenizer.model; LLaMA's options where others are not given."""
    import sentencepiece

    model = io.BytesIO()
    defaults: dict[str, Any] = {
        "vocab_size": 420,
        "model_type": "bpe",
        "byte_fallback": True,
        "character_coverage": 0.98,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "user_defined_symbols": ["<reserved_1>", "<reserved_2>"],
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        hard_vocab_limit=False,
        minloglevel=2,
        **{**defaults, **options},
    )
    return model.getvalue()


def byte_level(
    *, split: str | None = None, normalizer: str | None = None, prefix_space: bool = False
) -> dict[str, Any]:
    """A tokenizer.json on bytes, as GPT-2, Qwen and LLaMA 3 have it."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    steps = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=split is None)
    if split is not None:
        cut = pre_tokenizers.Split(tokenizers.Regex(split), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, steps])
    else:
        tokenizer.pre_tokenizer = steps
    if normalizer is not None:
        tokenizer.normalizer = getattr(normalizers, normalizer)()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|begin|>", "<|end|>", "<|eot|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens(["<tool call>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[("<|begin|>", 0)]
    )
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    return content


def metaspace(*, normalizing: bool) -> dict[str, Any]:
    """A LLaMA-2-like tokenizer.json; a normalizer makes spaces visible, or a Metaspace pre-tokenizer and decoder."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if normalizing:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(SPECIAL), limit_alphabet=60, max_token_length=8, show_progress=False
    )
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator([*TEXTS, *names], trainer)
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    vocab = list(content["model"]["vocab"])
    missing = [name for name in names if name not in vocab]
    content["model"]["vocab"] = {token: i for i, token in enumerate([*vocab[:3], *missing, *vocab[3:]])}
    if not normalizing:  # its decoder knows no byte tokens
        content["model"]["byte_fallback"] = False
    return content


def token(content: str, **flags: bool) -> dict[str, Any]:
    """An entry of added_tokens_decoder."""
    plain = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word", "special"), False)
    return {"content": content, **plain, **flags}


ADDED = {
    "430": token("<|im_start|>", special=True),
    "431": token("<|im_end|>", special=True, rstrip=True),
    "432": token("<left>", lstrip=True),
    "433": token("word", single_word=True),
    "434": token("Normal", normalized=True),
    "435": token("<both>", lstrip=True, rstrip=True, special=True),
}
LLAMA: Mapping[str, Any] = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
FAST: Mapping[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|begin|>",
    "eos_token": "<|eot|>",
}

Kind = Callable[[], tuple[Mapping[str, bytes], Mapping[str, Any]]]
"""Vocabulary files by name, and tokenizer_config.json."""


def _json(content: Mapping[str, Any]) -> dict[str, bytes]:
    return {"tokenizer.json": json.dumps(content).encode()}


def _model(**options: Any) -> dict[str, bytes]:
    return {"tokenizer.model": sentencepiece_model(**options)}


def _gpt2() -> dict[str, bytes]:
    model = byte_level()["model"]
    merges = "\n".join(" ".join(merge) for merge in model["merges"])
    vocab = {**model["vocab"], "<|endoftext|>": len(model["vocab"])}
    return {"vocab.json": json.dumps(vocab).encode(), "merges.txt": f"#version: 0.2\n{merges}\n".encode()}


KINDS: Mapping[str, Kind] = {
    "llama": lambda: (_model(), {**LLAMA, "add_bos_token": True}),
    "llama_legacy": lambda: (_model(), {**LLAMA, "legacy": True, "add_eos_token": True}),
    "llama_no_prefix_space": lambda: (_model(), {**LLAMA, "add_prefix_space": False, "legacy": False}),
    "llama_added": lambda: (_model(), {**LLAMA, "added_tokens_decoder": ADDED, "pad_token": "[PAD]"}),
    "llama_nmt": lambda: (_model(normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True), LLAMA),
    "llama_null": lambda: (_json(metaspace(normalizing=True)), {**LLAMA, "eos_token": None, "unk_token": None}),
    "llama_json": lambda: (_json(metaspace(normalizing=True)), {**LLAMA, "added_tokens_decoder": ADDED}),
    "metaspace_normalizer": lambda: (_json(metaspace(normalizing=True)), {**FAST, "bos_token": "<s>"}),
    "metaspace_decoder": lambda: (_json(metaspace(normalizing=False)), {**FAST, "bos_token": "<s>"}),
    "byte_level": lambda: (_json(byte_level()), FAST),
    "byte_level_added": lambda: (_json(byte_level()), {**FAST, "added_tokens_decoder": ADDED}),
    "byte_level_extra": lambda: (
        _json(byte_level(split=LLAMA3_SPLIT)),
        {**FAST, "additional_special_tokens": ["<|im_start|>", "word"], "image_token": "<image>"},
    ),
    "byte_level_as_llama": lambda: (
        _json(byte_level(split=LLAMA3_SPLIT)),
        {**FAST, "tokenizer_class": "LlamaTokenizer"},
    ),
    "byte_level_nfc_prefix": lambda: (_json(byte_level(normalizer="NFC", prefix_space=True)), FAST),
    "qwen2": lambda: (_json(byte_level(normalizer="NFC")), {**FAST, "tokenizer_class": "Qwen2Tokenizer"}),
    "gpt2_files": lambda: (_gpt2(), {"tokenizer_class": "GPT2Tokenizer"}),
    "no_class": lambda: (_json(byte_level(split=LLAMA3_SPLIT)), {"bos_token": "<|begin|>"}),
    "unknown_class": lambda: (_json(byte_level()), {**FAST, "tokenizer_class": "MadeUpTokenizer"}),
    "unigram": lambda: (_model(model_type="unigram", vocab_size=360), {**LLAMA, "tokenizer_class": "T5Tokenizer"}),
    "gemma": lambda: (_model(add_dummy_prefix=False), {**LLAMA, "tokenizer_class": "GemmaTokenizer"}),
}
MODEL_TYPES = {"qwen2": "qwen2", "gpt2_files": "gpt2"}


def write_kind(kind: str, folder: Path) -> Path:
    """A checkpoint folder with the tokenizer and a config.json, no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    files, config = KINDS[kind]()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    model = {"model_type": MODEL_TYPES.get(kind, "llama"), "eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps(model), encoding="utf-8")
    return folder


_ALPHABETS = (
    string.ascii_letters + "     ",
    string.printable,
    " \t\n\r\u00a0\u2003\u3000\u200b",
    "".join(map(chr, range(0x4E00, 0x4E80))) + "，。！",
    "".join(map(chr, range(0x300, 0x330))) + "aeiou",
    "😀👩\u200d🔬🇩🇪❤\ufe0f👍🏽",
    "".join(map(chr, (*range(32), 0x7F, 0x80, 0x9F, 0xAD, 0xFEFF, 0xFFFD, 0xFFFE, 0x10FFFF))),
    "▁Ġ<0x0A>ⓐﬁÅＡ",
)


def random_text(rng: random.Random, tokens: list[str]) -> str:
    """A text of up to a few hundred characters, with special tokens and words of the training text in it."""
    parts = []
    for _ in range(rng.randint(0, 6)):
        choice = rng.random()
        if choice < 0.25 and tokens:
            parts.append(rng.choice(tokens))
        elif choice < 0.45:
            start = rng.randrange(40)
            parts.append(rng.choice(TEXTS)[start : start + rng.randint(1, 30)])
        elif choice < 0.6:
            parts.append(
                "".join(chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))) for _ in range(4))
            )
        else:
            parts.append("".join(rng.choices(rng.choice(_ALPHABETS), k=rng.randint(1, 12))))
    return rng.choice(("", "", " ", "  ")).join(parts)
