"""What a caller may pass as prompts, token ids and settings; everything else is refused.

A text is a sequence of texts to Python, bytes are a sequence of numbers, and a fraction rounds: each of them would
otherwise be computed without a word.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np

from vamc_runtime.errors import UserError
from vamc_runtime.sampling import SamplingParams
from vamc_runtime.text.chat import Message

_NO_LIST = (str, bytes, bytearray, memoryview, Mapping, Set)
"""Iterable, but not lists of prompts, messages or ids."""


def list_of(what: str, values: object, *, one: str, fix: str) -> list[Any]:
    """The elements of a list, tuple, array or generator.

    Args:
        what: plural name of the elements.
        values: as the caller gave them.
        one: what a single text would be, for the message.
        fix: how to write it.

    Raises:
        UserError: they are one text, bytes, a mapping, a set, or nothing to go through.
    """
    is_single = isinstance(values, np.ndarray) and not values.ndim
    if isinstance(values, _NO_LIST) or not isinstance(values, Iterable) or is_single:
        found = f"one text, {_shown(values)}" if isinstance(values, str) else _kind(values)
        raise UserError(f"{one} is {found}", expected=f"a list of {what}", fix=fix)
    return list(values)


def list_of_prompts(prompts: object) -> list[Any]:
    """The prompts of a batch.

    Raises:
        UserError: no list of them.
    """
    return list_of(
        "prompts, each a text or a list of token ids", prompts, one="`prompts`", fix="put a single prompt into a list"
    )


def list_of_messages(messages: object) -> list[Message]:
    """The messages of a conversation.

    Raises:
        UserError: no list of them.
    """
    fix = 'pass [Message("user", "...")]'
    if isinstance(messages, Message):
        raise UserError("`messages` is one Message", expected="a list of messages", fix=fix)
    found = list_of("messages", messages, one="`messages`", fix=fix)
    for index, message in enumerate(found):
        if not isinstance(message, Message):
            raise UserError(f"message {index} is {_kind(message)}", expected="a Message", fix=fix)
    return found


def token_ids(ids: object, *, what: str = "a prompt") -> list[int]:
    """Token ids as whole numbers, from any sequence of them, numpy arrays included.

    Args:
        ids: as the caller gave them.
        what: name of the sequence.

    Raises:
        UserError: no sequence of whole numbers.
    """
    values = list_of("token ids", ids, one=what, fix="pass whole numbers, as the tokenizer gives them")
    return [_token_id(value, index, what) for index, value in enumerate(values)]


def _token_id(value: Any, index: int, what: str) -> int:
    if type(value) is int:
        return value
    try:
        if isinstance(value, (bool, np.bool_)) or np.ndim(value):
            raise TypeError
        return operator.index(value)
    except (TypeError, ValueError):
        raise UserError(
            f"{what} has {_shown(value)} ({_kind(value)}) at position {index}",
            expected="token ids, whole numbers",
            fix="pass a text, or the ids that the tokenizer gives",
        ) from None


def check_text(text: str) -> str:
    """A text that can be encoded.

    Raises:
        UserError: it holds half of a surrogate pair, as badly decoded input does.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"a prompt has the character {text[error.start]!r} at position {error.start}, which is not a character",
            expected="text that can be written as UTF-8",
            fix="decode the input with its right encoding, or with errors='replace'",
        ) from None
    return text


def check_params(params: object) -> SamplingParams:
    """Sampling parameters; greedy where there are none.

    Raises:
        UserError: another object.
    """
    if params is None:
        return SamplingParams()
    if not isinstance(params, SamplingParams):
        raise UserError(
            f"the sampling parameters are {_kind(params)}",
            expected="a SamplingParams, or None for greedy",
            fix="SamplingParams(max_new_tokens=32), for example",
        )
    return params


def check_path(path: object) -> Path:
    """The path of a runstream.

    Raises:
        UserError: no path.
    """
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(text, str) or "\0" in text:
        raise UserError(
            f"the path of the runstream is {_shown(text)}",
            expected="a text or a pathlib.Path",
            fix="pass the directory that `vamc compile` wrote",
        )
    return Path(text)


def check_switch(name: str, value: object) -> bool:
    """True or False.

    Raises:
        UserError: another value: any text, "off" too, would count as true.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise UserError(f"{name} is {_shown(value)} ({_kind(value)})", expected="True or False")
    return bool(value)


def check_count(name: str, value: object, *, what: str) -> int:
    """A whole number of at least one.

    Raises:
        UserError: another value.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise UserError(f"{name} is {_shown(value)} ({_kind(value)})", expected=f"a whole number of {what}, or None")
    if value < 1:
        raise UserError(f"{name} is {value}", expected=f"at least one {what.removesuffix('s')}, or None")
    return int(value)


def _kind(value: object) -> str:
    name = "None" if value is None else type(value).__name__
    return name if value is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
