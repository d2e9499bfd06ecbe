"""Checks of values that users and checkpoints give for sampling."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable

from vamc_runtime.errors import UserError

_MAX_TOKEN_ID = 2**31


def check_int(name: str, value: object, low: int) -> None:
    """Refuse what is not a whole number of at least `low`.

    Raises:
        UserError: naming the parameter.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise bad(name, value, f"a whole number of at least {low}")


def check_number(name: str, value: object, low: float, high: float) -> None:
    """Refuse what is not a number between `low` and `high`, inclusive.

    Raises:
        UserError: naming the parameter.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # The comparison also refuses NaN, infinity and whole numbers too large for a float.
    if not is_number or not low <= value <= min(high, sys.float_info.max):  # type: ignore[operator]  # a number
        span = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise bad(name, value, f"a number {span}")


def check_flag(name: str, value: object) -> None:
    """Refuse what is neither True nor False.

    Raises:
        UserError: naming the parameter.
    """
    if not isinstance(value, bool):
        raise bad(name, value, "True or False")


def check_tokens(name: str, value: object, *, may_be_empty: bool = True) -> None:
    """Refuse what is not a tuple of token ids.

    Raises:
        UserError: naming the parameter.
    """
    if not isinstance(value, tuple) or not _are_ids(value) or not (value or may_be_empty):
        raise bad(name, value, f"a {'' if may_be_empty else 'non-empty '}tuple of token ids")


def check_token_sequences(name: str, value: object) -> None:
    """Refuse what is not a tuple of non-empty tuples of token ids.

    Raises:
        UserError: naming the parameter.
    """
    good = isinstance(value, tuple) and all(isinstance(item, tuple) and item and _are_ids(item) for item in value)
    if not good:
        raise bad(name, value, "a tuple of non-empty tuples of token ids")


def bad(name: str, value: object, expected: str) -> UserError:
    """The error for a value; long ones are shown in part."""
    shown = repr(value) if not isinstance(value, int) or value.bit_length() < 10_000 else "a number of many digits"
    shown = shown if len(shown) <= 200 else f"{shown[:200]}..."
    return UserError(f"sampling parameter {name} is {shown}", expected=expected, fix=f"correct {name}")


def _are_ids(items: Iterable[object]) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < _MAX_TOKEN_ID for item in items)
