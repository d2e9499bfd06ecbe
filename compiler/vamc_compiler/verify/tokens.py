"""The tokens that a verification computes with: the user's text, the built-in sample, or made-up ids.

Every stage gets the same sequences, so they are chosen once, here. Real text matters: activations on it have the
outliers that quantization and float16 are sensitive to.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vamc_compiler.config import BuildConfig
from vamc_compiler.verify.result import TokenSource
from vamc_compiler.verify.steps import digest_tokens
from vamc_runtime.errors import UserError
from vamc_runtime.stored_path import ReadablePath
from vamc_runtime.text.tokenizer import Tokenizer, load_tokenizer

SEQUENCE_TOKENS = 2048
"""Longest sequence: attention in plain torch needs memory for its square."""

_SAMPLE = Path(__file__).with_name("sample.txt")
_CUT_TOKENS = 32
"""So many tokens before the place where a text was cut off may differ from those of the whole text."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What every stage runs on."""

    sequences: tuple[tuple[int, ...], ...]
    """Token ids; each sequence starts at position 0."""
    source: TokenSource


def tokens_of(config: BuildConfig, tokenizer_dir: ReadablePath, vocab_size: int) -> Tokens:
    """The tokens that a build config asks for; see `load_tokens`."""
    context = config.frontend.shape.max_context_tokens
    assert context is not None, "check_buildable refuses configs without a context length"
    return load_tokens(tokenizer_dir, config.verify.text, config.verify.tokens, context, vocab_size)


def load_tokens(
    tokenizer_dir: ReadablePath, text: Path | None, num_tokens: int, max_context: int, vocab_size: int
) -> Tokens:
    """Choose `num_tokens` tokens, cut into sequences of at most `max_context` and `SEQUENCE_TOKENS` tokens.

    A text that holds at least one sequence but fewer than `num_tokens` tokens is used as far as it goes; the built-in
    sample is repeated instead. A single token left over makes no sequence: nothing follows that it could predict.

    Args:
        tokenizer_dir: a runstream's `tokenizer` folder.
        text: a UTF-8 file; None takes the built-in sample, or made-up ids where there is no tokenizer.
        num_tokens: how many, at least 1.
        max_context: longest sequence that the model takes, in tokens.
        vocab_size: rows of the embedding.

    Raises:
        UserError: the text cannot be read, is empty, white space only, not UTF-8 or shorter than one sequence; the
            tokenizer is damaged or does not belong to the model; a text, but no tokenizer.
    """
    assert min(num_tokens, max_context, vocab_size) >= 1, "callers check what a config says"
    length = min(num_tokens, max_context, SEQUENCE_TOKENS)
    if text is None and not _has_tokenizer(tokenizer_dir):
        ids = np.random.default_rng(0).integers(vocab_size, size=num_tokens).tolist()
        description = "pseudo-random token ids: the checkpoint has no tokenizer"
    else:
        tokenizer = load_tokenizer(tokenizer_dir)
        if text is None:
            ids, description = _encode_sample(tokenizer, num_tokens)
        else:
            ids, description = _encode_file(tokenizer, text, num_tokens), str(text)
            if len(ids) < length:
                raise UserError(
                    f"the text {text} has {len(ids)} tokens",
                    expected=f"at least {length} tokens, one sequence",
                    fix="give a longer text, or ask for fewer tokens (verify.tokens)",
                )
        _check_ids(ids, tokenizer_dir, vocab_size)
    return _cut(ids[:num_tokens], length, description)


def _cut(ids: Sequence[int], length: int, description: str) -> Tokens:
    sequences = [tuple(ids[start : start + length]) for start in range(0, len(ids), length)]
    if len(sequences) > 1 and len(sequences[-1]) == 1:
        sequences.pop()
    source = TokenSource(description=description, num_tokens=sum(map(len, sequences)), digest=digest_tokens(sequences))
    return Tokens(sequences=tuple(sequences), source=source)


def _has_tokenizer(directory: ReadablePath) -> bool:
    return any((directory / name).exists() for name in ("tokenizer.json", "tokenizer.model"))


def _check_ids(ids: Sequence[int], tokenizer_dir: ReadablePath, vocab_size: int) -> None:
    largest = max(ids)
    if largest >= vocab_size:
        raise UserError(
            f"the tokenizer in {tokenizer_dir} gives id {largest}, the model knows {vocab_size} tokens",
            expected=f"ids below {vocab_size}",
            fix="copy the tokenizer files from the checkpoint that the model was compiled from",
        )


def _encode_sample(tokenizer: Tokenizer, num_tokens: int) -> tuple[list[int], str]:
    sample = _SAMPLE.read_text(encoding="utf-8")
    ids = tokenizer.encode(sample)
    if len(ids) >= num_tokens:
        return ids, "built-in sample"
    # One more than needed by the count: tokens at the seams may merge.
    repetitions = num_tokens // len(ids) + 2
    return tokenizer.encode("\n".join([sample] * repetitions)), "built-in sample, repeated"


def _encode_file(tokenizer: Tokenizer, path: Path, num_tokens: int) -> list[int]:
    """Token ids of the beginning of a text: no more of a large file is read than `num_tokens` need."""
    data, at_end, ids = b"", False, list[int]()
    try:
        with path.open("rb") as file:
            while not at_end and len(ids) < num_tokens + _CUT_TOKENS:
                wanted = max(16 * num_tokens, 4096, len(data))
                part = file.read(wanted)
                data += part
                at_end = len(part) < wanted
                text = _decode(path, data, at_end=at_end)
                ids = tokenizer.encode(text) if text.strip() else []
    except OSError as error:
        found = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise UserError(
            f"the text {path} {found}",
            expected="a text file in UTF-8",
            fix="give the path of a text, or none for the built-in sample",
        ) from error
    if not text.strip():
        raise UserError(
            f"the text {path} holds only white space" if data else f"the text {path} is empty",
            expected="a text in UTF-8, such as the model was made for",
            fix="give another text, or none for the built-in sample",
        )
    return ids


def _decode(path: Path, data: bytes, *, at_end: bool) -> str:
    try:
        # Before the end of the file, the last character may be there in part only.
        return codecs.getincrementaldecoder("utf-8")().decode(data, final=at_end).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(
            f"the text {path} is not UTF-8: byte 0x{data[error.start]:02x} at position {error.start}",
            expected="a text in UTF-8",
            fix=f"convert it: iconv -f <its encoding> -t UTF-8 {path}",
        ) from error
