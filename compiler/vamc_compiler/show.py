"""Values out of a user's files, as messages show them: on one line, printable, and short."""

from __future__ import annotations

from vamc_runtime.printable import printable

MAX_SHOWN_CHARACTERS = 160


def one_line(text: str, limit: int = MAX_SHOWN_CHARACTERS) -> str:
    """A text as part of a message: on one line, and cut to a length."""
    shown = printable(text[:limit]).replace("\n", "\\n").replace("\t", "\\t")
    return shown if len(text) <= limit else f"{shown}... ({len(text)} characters)"


def has_surrogates(text: str) -> bool:
    """Whether a text holds what no file in UTF-8 can hold."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def describe_json(value: object) -> str:
    """A value of a JSON file and its type, in words: `"4" (a text)`."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return f'"{one_line(value)}" (a text)'
    if isinstance(value, bool):
        return f"{str(value).lower()} (a boolean)"
    if isinstance(value, int):
        return f"{show_integer(value)} (a whole number)"
    if isinstance(value, float):
        return f"{value} (a number)"
    return "a list" if isinstance(value, list) else "an object"


def show_integer(value: int) -> str:
    """An integer; one that Python would not print (more than 4300 digits) by its size."""
    return str(value) if value.bit_length() < 512 else f"an integer of {value.bit_length()} bits"
