"""A tokenizer.model, run by `sentencepiece`, with the tokens added to it: Baichuan's tokenizer.

Follows the published tokenization_baichuan.py on transformers 5's `PythonBackend`: the text is split at added and
special tokens, and every part between them goes through the model, dummy space and all.
"""

from __future__ import annotations

import re

from vamc_runtime.errors import UserError
from vamc_runtime.stored_path import ReadablePath
from vamc_runtime.text.checkpoint_files import read_file
from vamc_runtime.text.sentencepiece_model import load_processor
from vamc_runtime.text.token_backends import EACH_BYTE
from vamc_runtime.text.tokenizer_config import AddedToken, TokenizerConfig

_SPACE = "▁"


class SentencePieceTokenizer:
    """Baichuan's tokenizer.

    Raises:
        UserError: the file is damaged, or a special token is not in the vocabulary.
    """

    decode_errors = EACH_BYTE

    def __init__(self, path: ReadablePath, config: TokenizerConfig) -> None:
        self._processor = load_processor(path, read_file(path))
        self._num_pieces: int = self._processor.GetPieceSize()
        self.bos_id = _or_none(self._processor.bos_id())
        self.eos_id = _or_none(self._processor.eos_id())
        self._added_ids = {token.content: token_id for token_id, token in config.added_tokens.items()}
        self._added_text = {token_id: token.content for token_id, token in config.added_tokens.items()}
        special = self._special_tokens(config)
        self._special = {token.content for token in special}
        self._matched = {token.content: token for token in (*special, *config.added_tokens.values())}
        # Longest first: one token may be the start of another.
        alternatives = sorted(self._matched, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, alternatives))})") if alternatives else None
        self.vocab_size = max(self._num_pieces, max(self._added_text, default=-1) + 1)
        self.strips_leading_space = "".join(self._processor.encode("a", out_type=str)).startswith(_SPACE)
        bos_id = self._id_of(config, "bos_token", self.bos_id)
        eos_id = self._id_of(config, "eos_token", self.eos_id)
        self._prefix = [bos_id] if config.add_bos is not False and bos_id is not None else []
        self._suffix = [eos_id] if config.add_eos and eos_id is not None else []

    def _special_tokens(self, config: TokenizerConfig) -> list[AddedToken]:
        """Named and unnamed special tokens, and the model's own where no others are named."""
        own = {"bos_token": self.bos_id, "eos_token": self.eos_id, "unk_token": _or_none(self._processor.unk_id())}
        defaults = {
            name: AddedToken(content=self._processor.id_to_piece(token_id), normalized=False, special=True)
            for name, token_id in own.items()
            if token_id is not None
        }
        named = {name: token for name, token in {**defaults, **config.special_tokens}.items() if token.content}
        for name, token in named.items():
            if self.token_id(token.content) is None:
                raise UserError(
                    f"{name} {token.content!r} of tokenizer_config.json is not in the vocabulary",
                    expected="the text of a token",
                    fix="copy tokenizer_config.json and the tokenizer file from the same checkpoint",
                )
        extra = [token for token in config.extra_special_tokens if self.token_id(token.content) is not None]
        return [*named.values(), *extra, *(token for token in config.added_tokens.values() if token.special)]

    def _id_of(self, config: TokenizerConfig, name: str, default: int | None) -> int | None:
        token = config.text_of(name)
        return default if token is None else self.token_id(token)

    def encode(self, text: str, add_special: bool) -> list[int]:
        ids: list[int] = []
        for part in self._parts(text):
            if part in self._matched:
                token_id = self.token_id(part)
                assert token_id is not None, "only tokens with an id are matched"
                ids.append(token_id)
            elif part:
                ids.extend(self._processor.encode(part))
        return [*self._prefix, *ids, *self._suffix] if add_special else ids

    def _parts(self, text: str) -> list[str]:
        """The text cut at added tokens, which take white space or give themselves up as their flags say."""
        parts = [part for part in (self._split.split(text) if self._split else [text]) if part]
        for index, part in enumerate(parts):
            token = self._matched.get(part)
            if token is None:
                continue
            left = parts[index - 1] if index else ""
            right = parts[index + 1] if index + 1 < len(parts) else ""
            if token.rstrip and right:
                parts[index + 1] = right.lstrip()
            if token.lstrip and left:
                parts[index - 1] = left.rstrip()
            if token.single_word and left and left[-1] != " ":
                parts[index - 1], parts[index] = parts[index - 1] + part, ""
            elif token.single_word and right and right[0] != " ":
                parts[index + 1], parts[index] = part + parts[index + 1], ""
        return parts

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

    def token_bytes(self, token_id: int, *, first: bool = False) -> bytes:
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


def _or_none(token_id: int) -> int | None:
    return token_id if token_id >= 0 else None
