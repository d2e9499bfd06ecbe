"""JSON from outside, read strictly: where Python's parser guesses, gives up or never ends, this one says what is wrong.

Refused beside what is not JSON: a key that appears twice, NaN and infinity, numbers of absurd length, nesting that
no file of ours has, lone surrogates, more bytes than the caller expects.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

MAX_DEPTH = 64
_MAX_DIGITS = 20
_MAX_SHOWN = 120


def parse_json(content: bytes, *, max_bytes: int) -> Any:
    """The value that a JSON file holds.

    Args:
        content: the file.
        max_bytes: more is refused before it is parsed.

    Raises:
        ValueError: says what is wrong, without naming the file.
    """
    if len(content) > max_bytes:
        raise ValueError(f"it has {len(content)} bytes, and {max_bytes} are the most")
    try:
        value = json.loads(
            content.decode(),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
        )
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check_nesting_and_text(value)
    return value


def shown(value: object) -> str:
    """A value for a message: as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


_TOO_DEEP = f"it is nested more than {MAX_DEPTH} deep"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {shown(key)} appears twice")
            seen.add(key)
    return content


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:  # thousands of digits take Python longer than the file took to write
        raise ValueError(f"it has a number of {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it has the number {shown(text)}, which no float holds")
    return value


def _constant(text: str) -> NoReturn:
    raise ValueError(f"it has {text}, which is not JSON")


def _check_nesting_and_text(value: Any) -> None:
    """Without recursion: what walks through the value later may use it."""
    level, depth = [value], 0
    while level:
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, (dict, list)) and depth == MAX_DEPTH:
                raise ValueError(_TOO_DEEP)
            elif isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, list):
                below += item
        level, depth = below, depth + 1


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"it has the text {shown(text)} with half of a surrogate pair") from None
