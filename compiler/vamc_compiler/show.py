"""Values out of a user's files, as messages show them: on one line, printable, and short."""

from __future__ import annotations

import re

MAX_SHOWN_CHARACTERS = 160

# Control characters that would act on the terminal, marks that reorder what is shown, and halves of surrogate pairs.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def printable(text: str, limit: int = MAX_SHOWN_CHARACTERS) -> str:
    """A text that can be put into a message: escaped where it would act on the terminal, and cut to a length."""
    cut = text[:limit]
    shown = _UNSAFE.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), cut)
    return shown if len(text) <= limit else f"{shown}... ({len(text)} characters)"


def has_surrogates(text: str) -> bool:
    """Whether a text holds what no file in UTF-8 can hold."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def describe_json(value: object) -> str:
    """A value of a JSON file and its type, in words: `"4" (a text)`."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return f'"{printable(value)}" (a text)'
    if isinstance(value, bool):
        return f"{str(value).lower()} (a boolean)"
    if isinstance(value, int):
        return f"{_digits(value)} (a whole number)"
    if isinstance(value, float):
        return f"{value} (a number)"
    return "a list" if isinstance(value, list) else "an object"


def _digits(value: int) -> str:
    """An integer; one that Python would not print (more than 4300 digits) by its size."""
    return str(value) if value.bit_length() < 512 else f"an integer of {value.bit_length()} bits"
