"""Reads the small JSON files a checkpoint publishes beside its tokenizer into one frozen object.

Which file wins follows transformers 5.24, `PreTrainedTokenizerBase._from_pretrained`: `added_tokens_decoder` in
tokenizer_config.json silences special_tokens_map.json and added_tokens.json; without it, special_tokens_map.json wins
over tokenizer_config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vamc_runtime.errors import UserError
from vamc_runtime.stored_path import ReadablePath
from vamc_runtime.text.checkpoint_files import read_json

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Names of special tokens that every class of transformers has, in its order."""
_FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special")


@dataclass(frozen=True, kw_only=True)
class AddedToken:
    """A token that is found in the text itself, before the tokenizer's model runs."""

    content: str
    """Its text."""
    lstrip: bool = False
    """It takes the white space before it."""
    rstrip: bool = False
    """It takes the white space behind it."""
    normalized: bool = True
    """It is looked for in the normalized text, not in the text as it is."""
    single_word: bool = False
    """It is found only where it is a word of its own."""
    special: bool = False
    """Decoding skips it."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """What the JSON files beside a tokenizer say; None where they say nothing."""

    tokenizer_class: str | None
    """The class of transformers that the checkpoint names."""
    add_bos: bool | None
    """Whether encode starts with the BOS token."""
    add_eos: bool | None
    """Whether encode ends with the EOS token."""
    add_prefix_space: bool | None
    """Whether encode puts a space before the text."""
    legacy: bool | None
    """The text after a special token also gets the space that goes before a text."""
    added_tokens: Mapping[int, AddedToken]
    """Tokens added after the tokenizer was trained, by the id that the file gives; ordered by id."""
    special_tokens: Mapping[str, AddedToken]
    """Special tokens by the name that chat templates write, bos_token for example; some checkpoints leave one empty."""
    lists_added_tokens: bool = True
    """tokenizer_config.json has the added tokens; else those of a tokenizer.json count too where it is rebuilt."""
    without_tokens: frozenset[str] = frozenset()
    """Names of special tokens that are null: a class's own default does not apply."""
    extra_special_tokens: tuple[AddedToken, ...]
    """Special tokens without a name."""
    bos_id: int | None
    """`bos_token_id` of the generation settings."""
    eos_ids: frozenset[int]
    """`eos_token_id` of the generation settings, which may be one id or a list; empty when absent."""
    is_baichuan: bool
    """The tokenizer is Baichuan's, which adds a BOS unless told not to; what was published tells it."""

    def text_of(self, name: str) -> str | None:
        """The text of a named special token; None where the checkpoint has none."""
        token = self.special_tokens.get(name)
        return None if token is None else token.content


def read_generation_settings(directory: ReadablePath) -> dict[str, Any]:
    """generation_config.json; without one, what config.json says about generation, as transformers has it.

    Raises:
        UserError: the file is damaged.
    """
    path = directory / "generation_config.json"
    return read_json(path if path.exists() else directory / "config.json")


def read_tokenizer_config(directory: ReadablePath) -> TokenizerConfig:
    """Everything the JSON files in a tokenizer directory say; missing files say nothing.

    Raises:
        UserError: a file is damaged or a value has the wrong type.
    """
    path = directory / "tokenizer_config.json"
    config = read_json(path)
    generation = read_generation_settings(directory)
    name = _text(config, "tokenizer_class", path)
    is_baichuan = _is_baichuan(name, config.get("auto_map"), generation)
    if _flag(config, "split_special_tokens", path):
        raise _wrong(path, "split_special_tokens", True, "false: special tokens written in a text become their ids")
    named, extra = _special_tokens(config, path, needs_type=is_baichuan)
    without = {name for name in NAMED_TOKENS if name in config and name not in named}
    if "added_tokens_decoder" in config:
        added = _added_tokens_decoder(config["added_tokens_decoder"], path)
    else:
        map_path = directory / "special_tokens_map.json"
        special_map = read_json(map_path)
        if _has_extra(config):  # then transformers reads the newer name only
            special_map.pop("additional_special_tokens", None)
        map_named, map_extra = _special_tokens(special_map, map_path, needs_type=is_baichuan)
        named, extra = {**named, **map_named}, tuple(dict.fromkeys((*extra, *map_extra)))
        nulls = {name for name in NAMED_TOKENS if name in special_map and name not in map_named}
        named = {name: token for name, token in named.items() if name not in nulls}
        without = (without | nulls) - named.keys()
        special = {token.content for token in (*named.values(), *extra)}
        added = _added_tokens_file(directory / "added_tokens.json", special)
    by_text = {token.content: token for token in added.values()}
    generation_path = directory / "generation_config.json"
    return TokenizerConfig(
        tokenizer_class=name,
        add_bos=_flag(config, "add_bos_token", path),
        add_eos=_flag(config, "add_eos_token", path),
        add_prefix_space=_flag(config, "add_prefix_space", path),
        legacy=_flag(config, "legacy", path),
        added_tokens=dict(sorted(added.items())),
        special_tokens={name: by_text.get(token.content, token) for name, token in named.items()},
        lists_added_tokens="added_tokens_decoder" in config,
        without_tokens=frozenset(without),
        extra_special_tokens=extra,
        bos_id=_first_id(generation.get("bos_token_id"), "bos_token_id", generation_path),
        eos_ids=_ids(generation.get("eos_token_id"), "eos_token_id", generation_path),
        is_baichuan=is_baichuan,
    )


def _is_baichuan(name: str | None, auto_map: object, generation: Mapping[str, Any]) -> bool:
    """By the class, which the first Baichuan-7B calls BaiChuanTokenizer; without one, by the ids of the chat format."""
    if name is None and isinstance(auto_map, dict):
        classes = auto_map.get("AutoTokenizer")
        slow = classes[0] if isinstance(classes, list) and classes else classes
        name = slow.rpartition(".")[2] if isinstance(slow, str) else None
    return name.lower().startswith("baichuan") if name else "user_token_id" in generation


def _special_tokens(
    config: Mapping[str, Any], path: ReadablePath, *, needs_type: bool
) -> tuple[dict[str, AddedToken], tuple[AddedToken, ...]]:
    """Named special tokens and those without a name, of tokenizer_config.json or special_tokens_map.json.

    Args:
        needs_type: objects in additional_special_tokens need "__type": without it, transformers' Python tokenizers
            take the whole object, printed, for the text of the token.
    """
    named = {name: _named_token(config[name], name, path) for name in NAMED_TOKENS if config.get(name) is not None}
    for name, value in config.items():  # a token of the model's own, image_token for example
        if name.endswith("_token") and name not in NAMED_TOKENS and isinstance(value, (str, dict)):
            named[name] = _named_token(value, name, path)
    extra: list[AddedToken] = []
    for key in ("model_specific_special_tokens", "extra_special_tokens", "additional_special_tokens"):
        value = config.get(key)
        if isinstance(value, dict) and key != "additional_special_tokens":
            named |= {str(name): _token(token, f"{key}.{name}", path) for name, token in value.items()}
        elif isinstance(value, list) and key != "model_specific_special_tokens":
            # transformers reads the older name only where the newer one says nothing.
            if needs_type and key == "additional_special_tokens" and not extra:
                for token in value:
                    if isinstance(token, dict) and token.get("__type") != "AddedToken":
                        raise _wrong(path, key, token, "the token's text: transformers 5 reads no object here")
            extra = extra or [_token(token, key, path) for token in value]
        elif value is not None:
            raise _wrong(path, key, value, "a list of tokens, or an object of named ones")
    return named, tuple(extra)


def _has_extra(config: Mapping[str, Any]) -> bool:
    """Whether tokenizer_config.json lists special tokens without a name, under either key."""
    is_list = "extra_special_tokens" in config and not isinstance(config["extra_special_tokens"], dict)
    return is_list or config.get("additional_special_tokens") is not None


def _added_tokens_decoder(value: object, path: ReadablePath) -> dict[int, AddedToken]:
    if not isinstance(value, dict):
        raise _wrong(path, "added_tokens_decoder", value, 'an object {id: {"content": text}}')
    added = {}
    for token_id, token in value.items():
        if not isinstance(token, dict) or not token_id.isascii() or not token_id.isdigit() or len(token_id) > 10:
            raise _wrong(path, "added_tokens_decoder", {token_id: token}, 'an object {id: {"content": text}}')
        added[int(token_id)] = _token(token, f"added_tokens_decoder.{token_id}", path, special=False)
    return added


def _added_tokens_file(path: ReadablePath, special: set[str]) -> dict[int, AddedToken]:
    added = {}
    for text, token_id in read_json(path).items():
        if not text or not isinstance(token_id, int) or isinstance(token_id, bool) or not 0 <= token_id < 2**32:
            raise _wrong(path, text, token_id, "an id for every token")
        is_special = text in special
        added[token_id] = AddedToken(content=text, normalized=not is_special, special=is_special)
    return added


def _named_token(value: object, name: str, path: ReadablePath) -> AddedToken:
    """A special token with a name, which may be empty: templates then write nothing, and no text has it."""
    is_empty = value == "" or (isinstance(value, dict) and value.get("content") == "")
    return AddedToken(content="", normalized=False, special=True) if is_empty else _token(value, name, path)


def _token(value: object, name: str, path: ReadablePath, *, special: bool = True) -> AddedToken:
    """A token given as text or, as transformers saves it, as an object with `content`.

    Args:
        special: it is special, whatever the object says; else the object decides.
    """
    if isinstance(value, str) and value:
        return AddedToken(content=value, normalized=not special, special=special)
    content = value.get("content") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(content, str) or not content:
        raise _wrong(path, name, value, "a text, or an object with the text as its content")
    flags = {key: value[key] for key in _FLAGS if key in value}
    for key, flag in flags.items():
        if not isinstance(flag, bool):
            raise _wrong(path, f"{name}.{key}", flag, "true or false")
    flags = {"normalized": not flags.get("special", special), **flags}
    return AddedToken(content=content, **{**flags, "special": special or flags.get("special", False)})


def _flag(config: Mapping[str, Any], key: str, path: ReadablePath) -> bool | None:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise _wrong(path, key, value, "true, false or null")
    return value


def _text(config: Mapping[str, Any], key: str, path: ReadablePath) -> str | None:
    value = config.get(key)
    if value is not None and not isinstance(value, str):
        raise _wrong(path, key, value, "a text or null")
    return value


def _ids(value: object, key: str, path: ReadablePath) -> frozenset[int]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(item, int) and not isinstance(item, bool) for item in ids):
        raise _wrong(path, key, value, "an id or a list of ids")
    return frozenset(ids)


def _first_id(value: object, key: str, path: ReadablePath) -> int | None:
    ids = value if isinstance(value, list) else [value]
    return None if value is None or not ids else next(iter(_ids(ids[:1], key, path)), None)


def _wrong(path: ReadablePath, key: str, value: object, expected: str) -> UserError:
    shown = repr(value)
    return UserError(
        f"{path}: {key} is {shown if len(shown) <= 200 else shown[:200] + '...'}",
        expected=expected,
        fix=f"copy {path.name} from the checkpoint again, or correct {key}",
    )
