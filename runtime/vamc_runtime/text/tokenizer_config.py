"""Reads the small JSON files a checkpoint publishes beside its tokenizer into one frozen object.

`tokenizer_config.json` wins over `special_tokens_map.json` and `added_tokens.json`, as in transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vamc_runtime.errors import UserError
from vamc_runtime.git_lfs import refuse_lfs_pointer
from vamc_runtime.stored_path import ReadablePath

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """What the JSON files beside a tokenizer say; None where they say nothing."""

    add_bos: bool | None
    """Whether encode starts with the BOS token."""
    add_eos: bool | None
    """Whether encode ends with the EOS token."""
    bos_token: str | None
    """Text of the beginning-of-sequence token."""
    eos_token: str | None
    """Text of the token that ends a sequence in the tokenizer's own opinion."""
    special_tokens: frozenset[str]
    """Tokens that decode skips."""
    added_tokens: Mapping[str, int]
    """Token text to id, for tokens added after the tokenizer model was trained."""
    legacy: bool
    """Sentencepiece only: the text after a special token also gets the dummy leading space."""
    bos_id: int | None
    """`bos_token_id` of generation_config.json."""
    eos_ids: frozenset[int]
    """`eos_token_id` of generation_config.json, which may be one id or a list; empty when absent."""
    is_baichuan: bool
    """The tokenizer is Baichuan's, which by default adds no BOS."""


def read_file(path: ReadablePath) -> bytes:
    """The bytes of a checkpoint file.

    Raises:
        UserError: the file cannot be read, or is a Git LFS pointer instead of the file itself.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", fix="check the path and its permissions") from error
    refuse_lfs_pointer(path, data, fix="run `git lfs pull` in the checkpoint and publish its tokenizer files again")
    return data


def read_json(path: ReadablePath) -> dict[str, Any]:
    """The object in a JSON file; empty when there is no such file.

    Raises:
        UserError: the file is not valid JSON, or its top level is not an object.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(read_file(path))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}", expected="a JSON object", fix="copy it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}", expected="a JSON object", fix="copy it again")
    return content


def read_tokenizer_config(directory: ReadablePath) -> TokenizerConfig:
    """Everything the JSON files in a tokenizer directory say; missing files say nothing.

    Raises:
        UserError: a file is damaged or a value has the wrong type.
    """
    path = directory / "tokenizer_config.json"
    config = {**read_json(directory / "special_tokens_map.json"), **read_json(path)}
    generation = read_json(directory / "generation_config.json")
    added, special = _added_tokens(directory, config)
    return TokenizerConfig(
        add_bos=_flag(config, "add_bos_token", path),
        add_eos=_flag(config, "add_eos_token", path),
        bos_token=_token_text(config.get("bos_token")),
        eos_token=_token_text(config.get("eos_token")),
        special_tokens=special,
        added_tokens=added,
        legacy=config.get("legacy") is not False,
        bos_id=_first_id(generation.get("bos_token_id")),
        eos_ids=_ids(generation.get("eos_token_id"), directory / "generation_config.json"),
        is_baichuan="user_token_id" in generation or str(config.get("tokenizer_class", "")).startswith("Baichuan"),
    )


def _added_tokens(directory: ReadablePath, config: Mapping[str, Any]) -> tuple[dict[str, int], frozenset[str]]:
    """Added tokens with their ids, and the texts of all special tokens."""
    added: dict[str, int] = {}
    special = {text for name in _NAMED_TOKENS if (text := _token_text(config.get(name)))}
    try:
        for name in ("additional_special_tokens", "extra_special_tokens"):
            extra = config.get(name) or []
            tokens = extra.values() if isinstance(extra, dict) else extra
            special.update(text for token in tokens if (text := _token_text(token)))
        for text, token_id in read_json(directory / "added_tokens.json").items():
            added[text] = int(token_id)
        for token_id, token in (config.get("added_tokens_decoder") or {}).items():
            added[token["content"]] = int(token_id)
            if token.get("special"):
                special.add(token["content"])
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"the added tokens of {directory} cannot be read: {error!r}",
            expected='added_tokens.json as {token: id}, added_tokens_decoder as {id: {"content": token}}, '
            "lists of special tokens",
            fix="copy tokenizer_config.json and added_tokens.json again",
        ) from error
    return added, frozenset(special)


def _token_text(token: object) -> str | None:
    """The text of a token given as a string or, as saved by transformers, as an object with `content`."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and text else None


def _flag(config: Mapping[str, Any], key: str, path: ReadablePath) -> bool | None:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise UserError(f"{path}: {key} is {value!r}", expected="true, false or null", fix=f"correct {key}")
    return value


def _ids(value: object, path: ReadablePath) -> frozenset[int]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(item, int) and not isinstance(item, bool) for item in ids):
        raise UserError(
            f"{path}: eos_token_id is {value!r}",
            expected="an id or a list of ids",
            fix="correct eos_token_id",
        )
    return frozenset(ids)


def _first_id(value: object) -> int | None:
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, int) else None
