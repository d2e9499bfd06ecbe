"""A tokenizer.model, run by `sentencepiece`, with the tokens added to it: Baichuan's tokenizer.

Follows the published tokenization_baichuan.py on transformers 5.24's `PythonBackend`: the text is split at added and
special tokens, and every part between them goes through the model, dummy space and all. Special tokens are those that
the files name; one that has no id yet gets the next one, and keeps none of its flags.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from vamc_runtime.errors import UserError
from vamc_runtime.stored_path import ReadablePath
from vamc_runtime.text.checkpoint_files import read_file
from vamc_runtime.text.sentencepiece_model import load_processor
from vamc_runtime.text.token_backends import EACH_BYTE
from vamc_runtime.text.tokenizer_config import NAMED_TOKENS, AddedToken, TokenizerConfig

_SPACE = "▁"
_EXTRA = "the extra special token"
_DEFAULTS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def with_baichuan_defaults(config: TokenizerConfig) -> TokenizerConfig:
    """The config with the special tokens that Baichuan's class has without being told."""
    own = {
        name: AddedToken(content=text, normalized=False, special=True)
        for name, text in _DEFAULTS.items()
        if name not in config.without_tokens
    }
    return dataclasses.replace(config, special_tokens={**own, **config.special_tokens})


class SentencePieceTokenizer:
    """Baichuan's tokenizer.

    Args:
        path: the model.
        config: what the files beside it say, with the class's defaults.

    Raises:
        UserError: the file is damaged, or the files beside it leave open which id a special token has.
    """

    decode_errors = EACH_BYTE
    strips_leading_space = False  # only the model's own pieces lose it: token_bytes knows them
    bos_id: int | None = None
    eos_id: int | None = None

    def __init__(self, path: ReadablePath, config: TokenizerConfig) -> None:
        self._processor = load_processor(path, read_file(path))
        self._num_pieces: int = self._processor.GetPieceSize()
        self._unknown_id: int = self._processor.unk_id()
        self._unknown_text: str = self._processor.decode([self._processor.id_to_piece(self._unknown_id)])
        self._takes_off_space = "".join(self._processor.encode("a", out_type=str)).startswith(_SPACE)
        special = _special_tokens(config)
        self._added = self._with_special(config.added_tokens, special)
        self._added_ids = {token.content: token_id for token_id, token in self._added.items()}
        self._special_ids = {self._id_or_unknown(text) for text in special}
        # Of a piece that is also an added token with another id, that id counts.
        pieces = {self._piece_id(text): token_id for text, token_id in self._added_ids.items()}
        self._id_of_piece = {piece_id: token_id for piece_id, token_id in pieces.items() if piece_id is not None}
        # Longest first: one token may be the start of another.
        alternatives = sorted(self._added_ids, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, alternatives))})") if alternatives else None
        self.vocab_size = max(self._num_pieces, max(self._added, default=-1) + 1)
        self._prefix = self._around(config, "bos_token") if config.add_bos is not False else []
        self._suffix = self._around(config, "eos_token") if config.add_eos else []

    def _with_special(self, listed: Mapping[int, AddedToken], special: Mapping[str, str]) -> dict[int, AddedToken]:
        """The added tokens by id, with the special ones among them; those without an id get the next."""
        added = dict(listed)
        ids = {token.content: token_id for token_id, token in listed.items()}
        doubled = [token for token_id, token in listed.items() if ids[token.content] != token_id]
        if doubled:
            raise _unclear_id(doubled[0].content, "an added token", "has several ids")
        # The published code and later copies of it count a vocabulary with renamed pieces differently.
        renames = any(
            token_id < self._num_pieces and self._piece_id(text) != token_id for text, token_id in ids.items()
        )
        new_id = self._num_pieces + sum(self._piece_id(text) is None for text in ids)
        for text, name in special.items():
            piece_id = self._piece_id(text)
            if text in ids and piece_id is not None and piece_id != ids[text]:
                raise _unclear_id(text, name, f"has id {piece_id} in the vocabulary and {ids[text]} as an added token")
            if text in ids or not text:
                continue
            token_id = new_id if piece_id is None else piece_id
            if token_id in added or (piece_id is None and (renames or name not in (*NAMED_TOKENS, _EXTRA))):
                raise _unclear_id(text, name, "is not in the vocabulary")
            added[token_id] = AddedToken(content=text)
            new_id += piece_id is None
        return added

    def _around(self, config: TokenizerConfig, name: str) -> list[int]:
        text = config.text_of(name)
        if text is None:
            raise UserError(
                f"tokenizer_config.json: {name} is null, and every text gets one",
                expected=f"the text of a token, or add_{name} false",
                fix=f"set add_{name} to false, or name the {name}",
            )
        return [self._id_or_unknown(text)]

    def encode(self, text: str, add_special: bool) -> list[int]:
        ids: list[int] = []
        for part in self._parts(text):
            if part in self._added_ids:
                ids.append(self._added_ids[part])
            elif part:
                ids.extend(self._id_of_piece.get(piece_id, piece_id) for piece_id in self._processor.encode(part))
        return [*self._prefix, *ids, *self._suffix] if add_special else ids

    def _parts(self, text: str) -> list[str]:
        """The text cut at added tokens, which take white space or give themselves up as their flags say."""
        parts = [part for part in (self._split.split(text) if self._split else [text]) if part]
        for index, part in enumerate(parts):
            if part not in self._added_ids:
                continue
            token = self._added[self._added_ids[part]]
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
        return self._added_ids[token] if token in self._added_ids else self._piece_id(token)

    def _piece_id(self, text: str) -> int | None:
        piece_id: int = self._processor.piece_to_id(text)
        # sentencepiece answers the unknown id for every text it does not know.
        return piece_id if self._processor.id_to_piece(piece_id) == text else None

    def _id_or_unknown(self, text: str) -> int:
        token_id = self.token_id(text)
        return self._unknown_id if token_id is None else token_id

    def token_text(self, token_id: int) -> str | None:
        if token_id in self._added:
            return self._added[token_id].content
        text: str | None = self._processor.id_to_piece(token_id) if 0 <= token_id < self._num_pieces else None
        return text

    def token_bytes(self, token_id: int, *, first: bool = False) -> bytes:
        text = self.token_text(token_id)
        if text is None or token_id in self._special_ids:
            return b""
        piece_id = self._piece_id(text)  # the library decodes an added token by its text, too
        if piece_id is None:
            return text.encode()
        if self._processor.is_control(piece_id):
            return b""
        if self._processor.is_unknown(piece_id):
            return self._unknown_text.encode()
        if self._processor.is_byte(piece_id):
            return bytes([int(text[3:5], 16)])
        return (text.removeprefix(_SPACE) if first and self._takes_off_space else text).replace(_SPACE, " ").encode()


def _special_tokens(config: TokenizerConfig) -> dict[str, str]:
    """What the files call each special token, by its text; in the order in which transformers gives ids."""
    first = [name for name in NAMED_TOKENS if name in config.special_tokens]
    names = [*first, *(name for name in config.special_tokens if name not in NAMED_TOKENS)]
    special: dict[str, str] = {}
    for name in names:
        special.setdefault(config.special_tokens[name].content, name)
    for token in config.extra_special_tokens:
        special.setdefault(token.content, _EXTRA)
    return special


def _unclear_id(text: str, name: str, what: str) -> UserError:
    return UserError(
        f"{name} {text!r} {what}, and the files of the tokenizer leave its id open",
        expected="a token of tokenizer.model, or one id in added_tokens_decoder of tokenizer_config.json",
        fix="list it in added_tokens_decoder with the id that the model was trained with, or remove it",
    )
