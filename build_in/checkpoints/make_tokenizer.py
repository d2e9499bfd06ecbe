"""Train the tokenizers of the demo checkpoints on generated text, in the published file formats.

Baichuan2: a sentencepiece BPE model with byte fallback, without normalisation or a leading-space prefix,
which splits numbers into digits. LLaMA: a `tokenizers` BPE with byte fallback whose post processor adds BOS.
A checkpoint's tokenizer learns from the text that it is trained on.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

UNK_ID, BOS_ID, EOS_ID = 0, 1, 2
FIRST_RESERVED_ID = 89  # `<reserved_k>` has id 89 + k, as published
LAST_RESERVED = 107
USER_TOKEN_ID, ASSISTANT_TOKEN_ID = 195, 196  # <reserved_106>, <reserved_107>
LLAMA_HEADER_START, LLAMA_HEADER_END, LLAMA_TURN_END = (
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
LLAMA_SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", LLAMA_HEADER_START, LLAMA_HEADER_END, LLAMA_TURN_END)
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))


def lines_of(texts: Iterable[str]) -> Iterator[str]:
    """Non-empty lines: a newline stays out of the training text, so that byte fallback encodes it."""
    for text in texts:
        yield from (line for line in text.split("\n") if line)


def train_sentencepiece(texts: Iterable[str], vocab_size: int) -> bytes:
    """The content of Baichuan's ``tokenizer.model``, trained on ``texts``."""
    extra = [f"<extra_{index}>" for index in range(FIRST_RESERVED_ID - EOS_ID - 1)]
    reserved = [f"<reserved_{index}>" for index in range(LAST_RESERVED + 1)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines_of(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_digits=True,
        unk_id=UNK_ID,
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        pad_id=-1,
        control_symbols=extra + reserved,
        num_threads=1,
        minloglevel=1,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    found = (processor.piece_to_id("<reserved_106>"), processor.piece_to_id("<reserved_107>"))
    assert found == (USER_TOKEN_ID, ASSISTANT_TOKEN_ID), f"reserved tokens got the ids {found}"
    return model.getvalue()


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """LLaMA's ``tokenizer.json``, trained on ``texts``.

    The trainer knows nothing of byte tokens, so the pieces it finds are renumbered behind them.
    """
    pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="never"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Punctuation(behavior="isolated"),
        ]
    )
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizer
    num_pieces = vocab_size - len(LLAMA_SPECIAL_TOKENS) - len(BYTE_TOKENS)
    learner.train_from_iterator(lines_of(texts), trainers.BpeTrainer(vocab_size=num_pieces, show_progress=False))
    pieces = [piece for piece, _ in sorted(learner.get_vocab().items(), key=lambda item: item[1])]
    vocab = {piece: index for index, piece in enumerate((*LLAMA_SPECIAL_TOKENS, *BYTE_TOKENS, *pieces))}
    assert len(vocab) == vocab_size, f"{len(vocab)} tokens; the text holds too few different words"

    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges_of(learner), unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in LLAMA_SPECIAL_TOKENS])
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS_ID)]
    )
    return tokenizer


def merges_of(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """The merge rules of a BPE tokenizer, first one first."""
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]
