"""The two tokenizer libraries behind one small interface: text to ids, and one id to its bytes.

Mapping every token to bytes, instead of calling the libraries' own decode, makes detokenisation a plain UTF-8
problem: streaming is exact and costs O(1) per token, and both libraries treat malformed bytes alike.
Limits: of tokenizer.json, the decoders of causal language models (byte-level, or sentencepiece-like).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Protocol

from vamc_runtime.errors import UserError
from vamc_runtime.stored_path import ReadablePath
from vamc_runtime.text.tokenizer_config import TokenizerConfig, read_file

_SPACE = "▁"  # U+2581, the visible space of sentencepiece
# Appended to a serialized model, this field is merged in: normalizer_spec (3) {add_dummy_prefix (3): false}.
# The Python package has no call for it.
_NO_DUMMY_SPACE = b"\x1a\x02\x18\x00"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBackend(Protocol):
    """What `Tokenizer` needs of a tokenizer library."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""

    @property
    def strips_leading_space(self) -> bool:
        """Encode puts a space before the text, which decode takes off again."""

    @property
    def template(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids that the tokenizer file itself wants before and after a text."""

    @property
    def bos_id(self) -> int | None:
        """The BOS token of the tokenizer file itself, where it names one."""

    @property
    def eos_id(self) -> int | None:
        """The EOS token of the tokenizer file itself, where it names one."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text; special tokens written in it become their ids, none is added."""

    def token_id(self, token: str) -> int | None:
        """The id of a token's text."""

    def token_text(self, token_id: int) -> str | None:
        """The text of a token as the tokenizer file writes it; None for an unknown id."""

    def token_bytes(self, token_id: int) -> bytes:
        """What the token contributes to the text: UTF-8, perhaps part of a character; empty when skipped."""


@dataclass(frozen=True, kw_only=True)
class DecodeRule:
    """How the `decoder` section of a tokenizer.json turns tokens into text."""

    byte_level: bool = False
    """Every character stands for one byte (GPT-2's alphabet)."""
    space: str | None = None
    """The character that stands for a space."""
    byte_fallback: bool = False
    """Tokens like <0xE4> stand for one byte."""
    strips_leading_space: bool = False
    """One space at the start of the whole text is dropped."""


class JsonTokenizer:
    """A tokenizer.json, run by the `tokenizers` library.

    Raises:
        UserError: the file is damaged, or its decoder is none of a causal language model's.
    """

    bos_id: int | None = None
    eos_id: int | None = None

    def __init__(self, path: ReadablePath, config: TokenizerConfig) -> None:
        import tokenizers

        try:
            source = read_file(path).decode()
            self._tokenizer = tokenizers.Tokenizer.from_str(source)
            decoder = json.loads(source).get("decoder")
        except UserError:
            raise
        except Exception as error:  # `tokenizers` raises nothing more exact
            raise _damaged(path, error) from error
        # Files saved after training may carry the training's truncation and padding.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._rule = parse_decoder(decoder, path)
        added = self._tokenizer.get_added_tokens_decoder()
        named = {self._tokenizer.token_to_id(token) for token in config.special_tokens}
        self._special_ids = named | {token_id for token_id, token in added.items() if token.special}
        self._alphabet = _byte_level_alphabet() if self._rule.byte_level else {}
        self.strips_leading_space = self._rule.strips_leading_space
        self.vocab_size = max(self._tokenizer.get_vocab_size(), max(added, default=-1) + 1)
        self.template = self._read_template()

    def _read_template(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the post-processor puts around a text, seen on a probe: its JSON has many forms."""
        probe = self._tokenizer.encode("a", add_special_tokens=True)
        ids, mask = probe.ids, probe.special_tokens_mask
        start = mask.index(0) if 0 in mask else len(mask)
        stop = len(mask) - mask[::-1].index(0) if 0 in mask else len(mask)
        return tuple(ids[:start]), tuple(ids[stop:])

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def token_id(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def token_text(self, token_id: int) -> str | None:
        return self._tokenizer.id_to_token(token_id) if token_id >= 0 else None

    def token_bytes(self, token_id: int) -> bytes:
        token = self.token_text(token_id)
        if token is None or token_id in self._special_ids:
            return b""
        if self._rule.byte_level:
            # Added tokens are plain text: any character outside the alphabet tells.
            if all(character in self._alphabet for character in token):
                return bytes(self._alphabet[character] for character in token)
            return token.encode()
        if self._rule.byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        return (token.replace(self._rule.space, " ") if self._rule.space else token).encode()


class SentencePieceTokenizer:
    """A tokenizer.model, run by `sentencepiece`, with the tokens added to it in JSON files.

    Raises:
        UserError: the file is damaged.
    """

    template: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def __init__(self, path: ReadablePath, config: TokenizerConfig) -> None:
        import sentencepiece

        self._model = read_file(path)
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(self._model)
            self._num_pieces: int = self._processor.GetPieceSize()
        except (RuntimeError, OSError, ValueError) as error:
            raise _damaged(path, error) from error
        self._legacy = config.legacy
        self._bare_processor: Any = None  # the same model without dummy space, made when first needed
        self._special = config.special_tokens
        self._added_ids = config.added_tokens
        self._added_text = {token_id: token for token, token_id in config.added_tokens.items()}
        self._matched = self._matched_tokens()
        # Longest first: one token may be the start of another.
        alternatives = sorted(self._matched, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, alternatives))})") if alternatives else None
        self.vocab_size = max(self._num_pieces, max(self._added_text, default=-1) + 1)
        self.bos_id = _or_none(self._processor.bos_id())
        self.eos_id = _or_none(self._processor.eos_id())
        self.strips_leading_space = "".join(self._processor.encode("a", out_type=str)).startswith(_SPACE)

    def _matched_tokens(self) -> dict[str, int]:
        """Tokens that encode finds in the text itself: sentencepiece never makes a control token of text."""
        matched = dict(self._added_ids)
        for token in self._special:
            token_id = self.token_id(token)
            if token_id is not None:
                matched[token] = token_id
        for token_id in (self._processor.bos_id(), self._processor.eos_id()):
            if token_id >= 0:
                matched.setdefault(self._processor.id_to_piece(token_id), token_id)
        return matched

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for index, part in enumerate(self._split.split(text) if self._split else [text]):
            if index % 2:
                ids.append(self._matched[part])
            elif part:
                processor = self._processor if index == 0 or self._legacy else self._without_dummy_space()
                ids.extend(processor.encode(part))
        return ids

    def _without_dummy_space(self) -> Any:
        if self._bare_processor is None:
            import sentencepiece

            self._bare_processor = sentencepiece.SentencePieceProcessor()
            self._bare_processor.LoadFromSerializedProto(self._model + _NO_DUMMY_SPACE)
        return self._bare_processor

    def token_id(self, token: str) -> int | None:
        if token in self._added_ids:
            return self._added_ids[token]
        piece_id: int = self._processor.piece_to_id(token)
        # sentencepiece answers the unknown id for every text it does not know.
        return piece_id if self._processor.id_to_piece(piece_id) == token else None

    def token_text(self, token_id: int) -> str | None:
        if token_id in self._added_text:
            return self._added_text[token_id]
        text: str | None = self._processor.id_to_piece(token_id) if 0 <= token_id < self._num_pieces else None
        return text

    def token_bytes(self, token_id: int) -> bytes:
        text = self.token_text(token_id)
        if text is None or text in self._special:
            return b""
        if token_id in self._added_text:
            return text.encode()
        if self._processor.is_control(token_id) or self._processor.is_unknown(token_id):
            return b""
        if self._processor.is_byte(token_id):
            return bytes([int(text[3:5], 16)])
        return text.replace(_SPACE, " ").encode()


def parse_decoder(decoder: object, path: ReadablePath) -> DecodeRule:
    """The rule in the `decoder` section of a tokenizer.json.

    Raises:
        UserError: a step that no causal language model is known to use.
    """
    section: dict[str, Any] = decoder if isinstance(decoder, dict) else {"type": None}
    steps: list[dict[str, Any]] = section.get("decoders", []) if section["type"] == "Sequence" else [section]
    byte_level = byte_fallback = strips = False
    space: str | None = None
    for step in steps:
        kind = step.get("type")
        if kind == "ByteLevel":
            byte_level = True
        elif kind == "ByteFallback":
            byte_fallback = True
        elif kind == "Metaspace":
            space = step.get("replacement", _SPACE)
            strips = step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space", True)
        elif kind == "Replace" and step.get("content") == " " and "String" in step.get("pattern", {}):
            space = step["pattern"]["String"]
        elif kind == "Strip" and step.get("content") == " " and not step.get("stop"):
            strips = step.get("start", 0) > 0
        elif kind != "Fuse":
            raise UserError(
                f"{path}: the decoder step {step!r} is not supported",
                expected="ByteLevel, ByteFallback, Metaspace, Fuse, or Replace and Strip of a space",
                fix="use the tokenizer files published with a causal language model",
            )
    return DecodeRule(
        byte_level=byte_level, space=space, byte_fallback=byte_fallback, strips_leading_space=bool(strips)
    )


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's character for every byte: itself where printable, else the next free one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def _or_none(token_id: int) -> int | None:
    return token_id if token_id >= 0 else None


def _damaged(path: ReadablePath, error: Exception) -> UserError:
    return UserError(f"{path} is damaged: {error}", fix="copy it again from the checkpoint and compare its size")
