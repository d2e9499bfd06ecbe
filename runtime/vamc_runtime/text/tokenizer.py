"""Text to token ids and back, from the tokenizer files of a published checkpoint.

Follows Hugging Face transformers in which special tokens are added and skipped. Two known differences:
`clean_up_tokenization_spaces` is not applied (it would change what the model wrote), and malformed UTF-8
becomes U+FFFD as Python's `errors="replace"` has it.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from dataclasses import replace

from vamc_runtime.errors import UserError
from vamc_runtime.stored_path import ReadablePath
from vamc_runtime.text.token_backends import JsonTokenizer, SentencePieceTokenizer, TokenBackend
from vamc_runtime.text.tokenizer_config import TokenizerConfig, read_tokenizer_config


class Tokenizer:
    """One model's tokenizer; made by `load_tokenizer`."""

    vocab_size: int
    """One more than the largest id; a model's logits may be wider (padded)."""
    bos_id: int | None
    """Beginning of sequence, None where the model has none."""
    eos_ids: frozenset[int]
    """Ids that end generation: generation_config.json, else the tokenizer's own EOS."""
    bos_token: str
    """Text of the BOS token, "" where there is none; chat templates write it."""
    eos_token: str
    """Text of the tokenizer's own EOS token, "" where there is none."""

    def __init__(self, backend: TokenBackend, config: TokenizerConfig) -> None:
        self._backend = backend
        self.vocab_size = backend.vocab_size
        self.strips_leading_space = backend.strips_leading_space
        self.bos_id = _resolve(backend, "bos_token", config.bos_token, config.bos_id, backend.bos_id)
        eos_id = _resolve(backend, "eos_token", config.eos_token, None, backend.eos_id)
        self.eos_ids = config.eos_ids or frozenset([] if eos_id is None else [eos_id])
        # Not the text of a BOS that only generation_config.json names: Qwen's lists one it does without.
        self.bos_token = config.bos_token or _text(backend, backend.bos_id)
        self.eos_token = config.eos_token or _text(backend, backend.eos_id)
        prefix, suffix = backend.template
        self._prefix = _with_token(prefix, self.bos_id, config.add_bos, at_start=True)
        self._suffix = _with_token(suffix, eos_id, config.add_eos, at_start=False)

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """The ids of a text; special tokens written in the text become their ids.

        Args:
            add_special: also add what the model expects around a text (usually BOS in front).

        Raises:
            UserError: the text is not valid Unicode (a lone surrogate).
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"the text has a lone surrogate at character {error.start}",
                fix="pass text decoded from valid UTF-8",
            ) from error
        ids = self._backend.encode(text)
        return [*self._prefix, *ids, *self._suffix] if add_special else ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special, control and unknown ids are skipped."""
        data = b"".join(self._backend.token_bytes(token_id) for token_id in ids)
        if self.strips_leading_space:
            data = data.removeprefix(b" ")
        return data.decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """What one token adds to the text: UTF-8, perhaps part of a character; empty when decode skips it."""
        return self._backend.token_bytes(token_id)


class StreamDecoder:
    """Decodes one token at a time; all answers joined are exactly `tokenizer.decode` of all ids.

    Bytes of an unfinished UTF-8 character (at most three) wait for the next token, nothing else is kept.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = tokenizer.strips_leading_space
        self._finished = False

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; often one word, "" within a character."""
        assert not self._finished, "StreamDecoder.push after finish"
        data = self._tokenizer.token_bytes(token_id)
        if self._at_start and data:
            self._at_start = False
            data = data.removeprefix(b" ")
        return self._utf8.decode(data)

    def finish(self) -> str:
        """The rest: U+FFFD when the last character never became complete, else "". Call it once, last."""
        assert not self._finished, "StreamDecoder.finish called twice"
        self._finished = True
        return self._utf8.decode(b"", final=True)


def load_tokenizer(directory: ReadablePath) -> Tokenizer:
    """The tokenizer of a published checkpoint, or of a runstream's `tokenizer` folder.

    Reads tokenizer.json, else tokenizer.model; tokenizer_config.json (add_bos_token, add_eos_token, special
    tokens), special_tokens_map.json, added_tokens.json and generation_config.json where they exist.
    Where add_bos_token is not given, a tokenizer.json's own post-processor decides, and a tokenizer.model
    gets BOS in front as LLaMA has it, but not Baichuan's.

    Raises:
        UserError: no supported tokenizer file, or a damaged one.
    """
    config = read_tokenizer_config(directory)
    json_path, model_path = directory / "tokenizer.json", directory / "tokenizer.model"
    if json_path.exists():
        return Tokenizer(JsonTokenizer(json_path, config), config)
    if model_path.exists():
        return Tokenizer(SentencePieceTokenizer(model_path, config), _with_llama_defaults(config))
    found = sorted(path.name for path in directory.glob("*")) if directory.is_dir() else []
    fix = "copy the tokenizer files of the checkpoint into it"
    if any(name.endswith(".tiktoken") for name in found):
        fix = "make a tokenizer.json with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
    raise UserError(
        f"no tokenizer in {directory}" + (f", which holds {', '.join(found[:8])}" if found else ""),
        expected="tokenizer.json or tokenizer.model",
        fix=fix,
    )


def _with_llama_defaults(config: TokenizerConfig) -> TokenizerConfig:
    return replace(config, add_bos=not config.is_baichuan if config.add_bos is None else config.add_bos)


def _resolve(
    backend: TokenBackend, name: str, token: str | None, generation_id: int | None, own_id: int | None
) -> int | None:
    """The id of a special token: its configured text, else generation_config.json, else the file's own."""
    if token is None:
        return generation_id if generation_id is not None else own_id
    token_id = backend.token_id(token)
    if token_id is None:
        raise UserError(
            f"{name} {token!r} of tokenizer_config.json is not in the vocabulary",
            expected="the text of a token",
            fix="copy tokenizer_config.json and the tokenizer file from the same checkpoint",
        )
    return token_id


def _text(backend: TokenBackend, token_id: int | None) -> str:
    return "" if token_id is None else backend.token_text(token_id) or ""


def _with_token(
    template: tuple[int, ...], token_id: int | None, wanted: bool | None, *, at_start: bool
) -> tuple[int, ...]:
    """The tokenizer file's own template, with one token added or removed where the config says so."""
    if wanted is None or token_id is None or wanted == (token_id in template):
        return template
    if not wanted:
        return tuple(other for other in template if other != token_id)
    return (token_id, *template) if at_start else (*template, token_id)
