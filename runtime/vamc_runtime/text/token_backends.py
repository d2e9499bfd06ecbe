"""What `Tokenizer` needs of a tokenizer library: text to ids, and one id to its bytes.

Mapping every token to bytes, instead of calling the libraries' own decode, makes detokenisation a plain UTF-8
problem: streaming is exact and costs O(1) per token.
"""

from __future__ import annotations

import codecs
from typing import Protocol

EACH_BYTE = "vamc_each_byte"
"""Error handler of `bytes.decode`: one U+FFFD for every malformed byte, as both libraries do for byte tokens."""


class TokenBackend(Protocol):
    """One tokenizer file, run by a library."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""

    @property
    def strips_leading_space(self) -> bool:
        """Encode puts a space before the text, which decode takes off again."""

    @property
    def decode_errors(self) -> str:
        """Error handler of `bytes.decode` for malformed UTF-8."""

    @property
    def bos_id(self) -> int | None:
        """The BOS token of the tokenizer file itself, where it names one."""

    @property
    def eos_id(self) -> int | None:
        """The EOS token of the tokenizer file itself, where it names one."""

    def encode(self, text: str, add_special: bool) -> list[int]:
        """The ids of a text; special tokens written in it become their ids.

        Args:
            text: valid Unicode.
            add_special: also add what the model expects around a text.
        """

    def token_id(self, token: str) -> int | None:
        """The id of a token's text."""

    def token_text(self, token_id: int) -> str | None:
        """The text of a token as the tokenizer file writes it; None for an unknown id."""

    def token_bytes(self, token_id: int, *, first: bool = False) -> bytes:
        """What the token contributes to the text: UTF-8, perhaps part of a character; empty when skipped.

        Args:
            first: nothing of the text comes before it.
        """


def _each_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError), "only for decoding"
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error(EACH_BYTE, _each_byte)
