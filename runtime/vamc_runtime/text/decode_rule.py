"""The `decoder` section of a tokenizer.json as one rule: what a token adds to the text.

Limits: the decoders of causal language models, byte-level or sentencepiece-like. Every other step, and every other
order of steps, is refused, because it would give another text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vamc_runtime.errors import UserError
from vamc_runtime.stored_path import ReadablePath
from vamc_runtime.text.token_backends import EACH_BYTE

SPACE = "▁"  # U+2581, the visible space of sentencepiece
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SUPPORTED = "ByteLevel, Metaspace, or Replace of ▁ by a space, ByteFallback, Fuse and Strip of one space in this order"
_STEPS = re.compile(r"(Replace )?(ByteFallback )?(Fuse )?|(Replace )?(ByteFallback )?Fuse Strip ")
"""Each may be missing, but Strip works on the fused text."""


@dataclass(frozen=True, kw_only=True)
class DecodeRule:
    """How the `decoder` section of a tokenizer.json turns tokens into text."""

    byte_level: bool = False
    """Every character stands for one byte (GPT-2's alphabet)."""
    space: str | None = None
    """The text that stands for a space."""
    byte_fallback: bool = False
    """Tokens like <0xE4> stand for one byte."""
    strips: Literal["nothing", "space", "first token"] = "nothing"
    """What is dropped at the start of the whole text: one space, or every space character of the first token."""

    @property
    def decode_errors(self) -> str:
        """Error handler of `bytes.decode` for malformed UTF-8."""
        return EACH_BYTE if self.byte_fallback else "replace"

    def bytes_of(self, token: str, alphabet: Mapping[str, int], *, first: bool) -> bytes:
        """What a token adds to the text.

        Args:
            token: its text in the vocabulary.
            alphabet: `byte_level_alphabet()`, for a byte-level rule.
            first: nothing of the text comes before it.
        """
        if self.byte_level:
            # Added tokens are plain text: any character outside the alphabet tells.
            if all(character in alphabet for character in token):
                return bytes(alphabet[character] for character in token)
            return token.encode()
        text = token if self.space is None else token.replace(self.space, self._space(first))
        if self.byte_fallback and (match := _BYTE_TOKEN.fullmatch(text)):
            return bytes([int(match[1], 16)])
        return text.encode()

    def _space(self, first: bool) -> str:
        return "" if first and self.strips == "first token" else " "


def parse_decoder(decoder: object, path: ReadablePath) -> DecodeRule:
    """The rule in the `decoder` section of a tokenizer.json.

    Raises:
        UserError: a step, or an order of steps, that no causal language model is known to use.
    """
    section = decoder if isinstance(decoder, dict) else {"type": decoder}
    steps = section.get("decoders") if section.get("type") == "Sequence" else [section]
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps) or not steps:
        raise _unsupported(decoder, path)
    kinds = [_kind_of(step) for step in steps]
    if kinds == ["ByteLevel"]:
        return DecodeRule(byte_level=True)
    if kinds == ["Metaspace"]:
        step = steps[0]
        scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
        strips: Literal["nothing", "first token"] = "nothing" if scheme == "never" else "first token"
        return DecodeRule(space=step.get("replacement", SPACE), strips=strips)
    if _STEPS.fullmatch("".join(f"{kind} " for kind in kinds)):
        return DecodeRule(
            space=steps[0]["pattern"]["String"] if kinds[0] == "Replace" else None,
            byte_fallback="ByteFallback" in kinds,
            strips="space" if "Strip" in kinds else "nothing",
        )
    raise _unsupported(decoder, path)


def _kind_of(step: Mapping[str, Any]) -> str:
    """The type of a step; with a question mark where its settings are not those of a known tokenizer."""
    kind, pattern = str(step.get("type")), step.get("pattern")
    known = True
    if kind == "Replace":
        text = pattern.get("String") if isinstance(pattern, dict) else None
        known = step.get("content") == " " and isinstance(text, str) and bool(text)
    elif kind == "Strip":
        known = step.get("content") == " " and step.get("start") == 1 and not step.get("stop")
    elif kind == "Metaspace":
        known = isinstance(step.get("replacement", SPACE), str)
    return kind if known else f"{kind}?"


def byte_level_alphabet() -> dict[str, int]:
    """GPT-2's character for every byte: itself where printable, else the next free one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def _unsupported(decoder: object, path: ReadablePath) -> UserError:
    shown = repr(decoder)
    return UserError(
        f"{path}: the decoder {shown if len(shown) <= 300 else shown[:300] + '...'} is not supported",
        expected=_SUPPORTED,
        fix="use the tokenizer files published with a causal language model",
    )
