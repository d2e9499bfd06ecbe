"""A tokenizer.json, run by the `tokenizers` library as transformers 5 runs it.

Follows transformers 5.24, `tokenization_utils_tokenizers.TokenizersBackend`: what tokenizer_config.json adds is added
in the same order by the same calls, and where the checkpoint names LlamaTokenizer, all but vocabulary, merges and
post-processor is that class's own. Other classes that rebuild the tokenizer are left to `vamc compile`, which has
transformers and writes the rebuilt one into the runstream.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vamc_runtime.errors import UserError
from vamc_runtime.stored_path import ReadablePath
from vamc_runtime.text.checkpoint_files import damaged, read_text
from vamc_runtime.text.decode_rule import byte_level_alphabet, parse_decoder
from vamc_runtime.text.llama_tokenizer import build_from_json, with_llama_defaults
from vamc_runtime.text.tokenizer_config import AddedToken, TokenizerConfig

if TYPE_CHECKING:
    import tokenizers

AS_IN_THE_FILE = ("TokenizersBackend", "PreTrainedTokenizerFast", "PreTrainedTokenizer")
"""Classes of transformers that run a tokenizer.json as it is."""
LLAMA = ("LlamaTokenizer", "LlamaTokenizerFast")


class JsonTokenizer:
    """A tokenizer of the `tokenizers` library, with the tokens that a checkpoint's other files add.

    Args:
        tokenizer: the tokenizer, whose vocabulary is not changed elsewhere.
        config: what the files beside it say.
        path: its file, for messages.

    Raises:
        UserError: its decoder is none of a causal language model's, or a token cannot be added.
    """

    bos_id: int | None = None
    eos_id: int | None = None

    def __init__(self, tokenizer: tokenizers.Tokenizer, config: TokenizerConfig, path: ReadablePath) -> None:
        self._path = path
        self._tokenizer = tokenizer
        # Files saved after training may carry the training's truncation and padding.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        decoder = None if tokenizer.decoder is None else json.loads(tokenizer.decoder.__getstate__())
        self._rule = parse_decoder(decoder, path)
        wanted = _added_tokens(tokenizer, config)
        with refusing(path):
            tokenizer.add_tokens(wanted)
            tokenizer.encode("a", add_special_tokens=True)
        added = tokenizer.get_added_tokens_decoder()
        self._special_ids = {token_id for token_id, token in added.items() if token.special}
        self.vocab_size = max(tokenizer.get_vocab_size(), max(added, default=-1) + 1)
        self._alphabet = byte_level_alphabet() if self._rule.byte_level else {}
        self.strips_leading_space = self._rule.strips == "space"
        self.decode_errors = self._rule.decode_errors

    def encode(self, text: str, add_special: bool) -> list[int]:
        with refusing(self._path):
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special).ids
        return ids

    def token_id(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def token_text(self, token_id: int) -> str | None:
        return self._tokenizer.id_to_token(token_id) if 0 <= token_id < 2**32 else None

    def token_bytes(self, token_id: int, *, first: bool = False) -> bytes:
        token = self.token_text(token_id)
        if token is None or token_id in self._special_ids:
            return b""
        return self._rule.bytes_of(token, self._alphabet, first=first)


def open_json(path: ReadablePath, config: TokenizerConfig) -> tuple[JsonTokenizer, TokenizerConfig]:
    """The tokenizer in a tokenizer.json, and the config with what its class adds.

    Raises:
        UserError: the file is damaged, its decoder is none of a causal language model's, or the checkpoint names a
            class of transformers that would change the tokenizer in a way that is not known here.
    """
    import tokenizers

    source, name = read_text(path), config.tokenizer_class
    with refusing(path):
        tokenizer = tokenizers.Tokenizer.from_str(source)
        # transformers does not believe that a tokenizer on bytes is LLaMA's.
        if name in LLAMA and '"ByteLevel"' not in source:
            config = with_llama_defaults(_with_added_tokens_of(tokenizer, config))
            tokenizer = build_from_json(json.loads(source), tokenizer, config)
    if name is not None and name not in (*AS_IN_THE_FILE, *LLAMA):
        raise UserError(
            f"the tokenizer_class beside {path} is {name}, which in transformers changes what {path.name} says",
            expected=f"one of {', '.join((*AS_IN_THE_FILE, *LLAMA))}",
            fix="compile the checkpoint: the runstream holds the tokenizer as transformers builds it",
        )
    return JsonTokenizer(tokenizer, config, path), config


def _added_tokens(tokenizer: tokenizers.Tokenizer, config: TokenizerConfig) -> list[tokenizers.AddedToken]:
    """The tokens to add for the files beside a tokenizer; the library gives the ids in this order, as in transformers.

    Named special tokens become special even where they are an ordinary part of the vocabulary.
    """
    import tokenizers

    present = {_flags_of(token) for token in tokenizer.get_added_tokens_decoder().values()}
    wanted: dict[str, AddedToken] = {}
    for token in config.added_tokens.values():
        if (
            token.content,
            token.lstrip,
            token.rstrip,
            token.normalized,
            token.single_word,
            token.special,
        ) not in present:
            wanted.setdefault(token.content, token)
    known = {content for content, *_ in present}
    for token in (*config.special_tokens.values(), *config.extra_special_tokens):
        if token.content not in known:
            wanted.setdefault(token.content, token)
    named = {token.content for token in config.special_tokens.values()}
    return [
        tokenizers.AddedToken(
            token.content,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            normalized=token.normalized,
            single_word=token.single_word,
            special=token.special or token.content in named,
        )
        for token in wanted.values()
    ]


def _with_added_tokens_of(tokenizer: tokenizers.Tokenizer, config: TokenizerConfig) -> TokenizerConfig:
    """The config with the added tokens of a tokenizer.json that is rebuilt, where no other file has them."""
    if config.lists_added_tokens:
        return config
    own = {token_id: _as_added_token(token) for token_id, token in tokenizer.get_added_tokens_decoder().items()}
    return dataclasses.replace(config, added_tokens=dict(sorted({**config.added_tokens, **own}.items())))


@contextlib.contextmanager
def refusing(path: ReadablePath) -> Iterator[None]:
    """Turn what the library raises about a file into a message.

    Raises:
        UserError: the library raised anything but an interruption.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:  # a panic of the Rust code is no Exception
        raise damaged(path, error) from error


def _flags_of(token: tokenizers.AddedToken | AddedToken) -> tuple[str, bool, bool, bool, bool, bool]:
    return token.content, token.lstrip, token.rstrip, token.normalized, token.single_word, token.special


def _as_added_token(token: tokenizers.AddedToken) -> AddedToken:
    content, lstrip, rstrip, normalized, single_word, special = _flags_of(token)
    return AddedToken(
        content=content,
        lstrip=lstrip,
        rstrip=rstrip,
        normalized=normalized,
        single_word=single_word,
        special=special,
    )
