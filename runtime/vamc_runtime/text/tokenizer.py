"""Text to token ids and back, from the tokenizer files of a published checkpoint.

Gives the ids and the text that transformers 5 gives. Two known differences: `clean_up_tokenization_spaces` is not
applied (it would change what the model wrote), and malformed byte tokens become one U+FFFD each, where the
`tokenizers` library also replaces the well-formed characters beside them.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping

from vamc_runtime.errors import UserError
from vamc_runtime.stored_path import ReadablePath
from vamc_runtime.text.json_backend import LLAMA, JsonTokenizer, open_json
from vamc_runtime.text.llama_tokenizer import add_bos_and_eos, build_from_sentencepiece
from vamc_runtime.text.sentencepiece_backend import SentencePieceTokenizer, with_baichuan_defaults
from vamc_runtime.text.token_backends import TokenBackend
from vamc_runtime.text.tokenizer_config import TokenizerConfig, read_tokenizer_config


class Tokenizer:
    """One model's tokenizer; made by `load_tokenizer`."""

    vocab_size: int
    """One more than the largest id; a model's logits may be wider (padded)."""
    bos_id: int | None
    """Beginning of sequence, None where the model has none."""
    eos_ids: frozenset[int]
    """Ids that end generation: those of the generation settings, else the tokenizer's own EOS."""
    special_tokens: Mapping[str, str]
    """Texts of special tokens by the names that chat templates write; only those that the model has."""

    def __init__(self, backend: TokenBackend, config: TokenizerConfig) -> None:
        self._backend = backend
        self.vocab_size = backend.vocab_size
        self.strips_leading_space = backend.strips_leading_space
        self.decode_errors = backend.decode_errors
        self.bos_id = _id_of(backend, config, "bos_token", config.bos_id, backend.bos_id)
        eos_id = _id_of(backend, config, "eos_token", None, backend.eos_id)
        self.eos_ids = config.eos_ids or frozenset([] if eos_id is None else [eos_id])
        # Not the text of a BOS that only generation_config.json names: Qwen's lists one it does without.
        own = {"bos_token": backend.bos_id, "eos_token": backend.eos_id}
        texts = {name: backend.token_text(token_id) for name, token_id in own.items() if token_id is not None}
        named = {name: token.content for name, token in config.special_tokens.items()}
        self.special_tokens = {**{name: text for name, text in texts.items() if text is not None}, **named}

    @property
    def bos_token(self) -> str:
        """Text of the BOS token, "" where there is none."""
        return self.special_tokens.get("bos_token", "")

    @property
    def eos_token(self) -> str:
        """Text of the tokenizer's own EOS token, "" where there is none."""
        return self.special_tokens.get("eos_token", "")

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
        return self._backend.encode(text, add_special)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special, control and unknown ids are skipped."""
        decoder = StreamDecoder(self)
        return "".join([*(decoder.push(token_id) for token_id in ids), decoder.finish()])

    def token_bytes(self, token_id: int, *, first: bool = False) -> bytes:
        """What one token adds to the text: UTF-8, perhaps part of a character; empty when decode skips it.

        Args:
            first: nothing of the text comes before it.
        """
        return self._backend.token_bytes(token_id, first=first)

    def token_text(self, token_id: int) -> str | None:
        """The text of a token as the tokenizer file writes it; None for an unknown id."""
        return self._backend.token_text(token_id)

    def skipped_text(self, token_id: int) -> str:
        """The text of a special token, which decode leaves out; "" for any other token."""
        return "" if self.token_bytes(token_id) else self.token_text(token_id) or ""


class StreamDecoder:
    """Decodes one token at a time; all answers joined are exactly `tokenizer.decode` of all ids.

    Bytes of an unfinished UTF-8 character (at most three) wait for the next token, nothing else is kept.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors=tokenizer.decode_errors)
        self._at_start = True
        self._finished = False

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; often one word, "" within a character."""
        assert not self._finished, "StreamDecoder.push after finish"
        data = self._tokenizer.token_bytes(token_id, first=self._at_start)
        if self._at_start and (data or self._is_spaces(token_id)):
            self._at_start = False
            if self._tokenizer.strips_leading_space:
                data = data.removeprefix(b" ")
        return self._utf8.decode(data)

    def _is_spaces(self, token_id: int) -> bool:
        """Whether a token is empty only because it comes first."""
        return bool(self._tokenizer.token_bytes(token_id))

    def finish(self) -> str:
        """The rest: U+FFFD when the last character never became complete, else "". Call it once, last."""
        assert not self._finished, "StreamDecoder.finish called twice"
        self._finished = True
        return self._utf8.decode(b"", final=True)


def load_tokenizer(directory: ReadablePath) -> Tokenizer:
    """The tokenizer of a published checkpoint, or of a runstream's `tokenizer` folder.

    Reads tokenizer.json, else tokenizer.model; tokenizer_config.json, special_tokens_map.json, added_tokens.json and
    the generation settings where they exist. As in transformers 5, add_bos_token and add_eos_token count for a
    tokenizer.model only; a tokenizer.json says itself what goes around a text.

    Raises:
        UserError: no supported tokenizer file, a damaged one, or one of a class that only transformers can build.
    """
    config = read_tokenizer_config(directory)
    json_path, model_path = directory / "tokenizer.json", directory / "tokenizer.model"
    if json_path.exists():
        return Tokenizer(*open_json(json_path, config))
    if model_path.exists() and config.is_baichuan:
        config = with_baichuan_defaults(config)
        return Tokenizer(SentencePieceTokenizer(model_path, config), config)
    if model_path.exists():
        return _load_llama(model_path, config)
    found = sorted(path.name for path in directory.glob("*")) if directory.is_dir() else []
    fix = "copy the tokenizer files of the checkpoint into it"
    if any(name.endswith(".tiktoken") for name in found):
        fix = "make a tokenizer.json with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
    raise UserError(
        f"no tokenizer in {directory}" + (f", which holds {', '.join(found[:8])}" if found else ""),
        expected="tokenizer.json or tokenizer.model",
        fix=fix,
    )


def _load_llama(path: ReadablePath, config: TokenizerConfig) -> Tokenizer:
    if config.tokenizer_class not in LLAMA:
        raise UserError(
            f"the tokenizer_class beside {path} is {config.tokenizer_class}, which decides how {path.name} is read",
            expected=f"{' or '.join(LLAMA)}, or Baichuan's",
            fix="compile the checkpoint: the runstream holds the tokenizer as transformers builds it",
        )
    tokenizer, config = build_from_sentencepiece(path, config)
    backend = JsonTokenizer(tokenizer, config, path)
    add_bos_and_eos(tokenizer, config)
    return Tokenizer(backend, config)


def _id_of(
    backend: TokenBackend, config: TokenizerConfig, name: str, generation_id: int | None, own_id: int | None
) -> int | None:
    """The id of a special token: its configured text, else the generation settings, else the file's own."""
    text = config.text_of(name)
    if text is None:
        return generation_id if generation_id is not None else own_id
    return backend.token_id(text)
