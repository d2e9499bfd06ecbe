"""Typed reading of a JSON object: each value is asked for with its type, and refused by name when it has another.

Nothing is converted: "4" is no number, 4.0 no whole number, 1 no boolean. null counts as absent only where published
files write it so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vamc_compiler.show import describe_json, has_surrogates
from vamc_runtime.errors import UserError

MAX_INTEGER = 2**31 - 1
"""Positions and sizes are int32 in the compiled code."""
_FIX = "compare it with the published file of this model"


@dataclass(frozen=True)
class Fields:
    """An object in a JSON file."""

    raw: Mapping[str, Any]
    path: Path
    """The file."""
    inside: str = ""
    """Dotted name of the object within the file, with a dot at its end; empty for the file itself."""

    def name(self, key: str) -> str:
        """A key as messages call it."""
        return f"{self.inside}{key}"

    def has(self, key: str, *, null: bool = False) -> bool:
        """Whether a key has a value; with `null`, null is none."""
        return key in self.raw and not (null and self.raw[key] is None)

    def wrong(self, key: str, expected: str) -> UserError:
        """The error for a value that does not do."""
        return UserError(
            f"{self.path} has {describe_json(self.raw[key])} for {self.name(key)!r}", expected=expected, fix=_FIX
        )

    def integer(self, key: str, *, minimum: int = 1, maximum: int = MAX_INTEGER) -> int:
        """A whole number that must be there.

        Raises:
            UserError: it is absent, of another type, or out of range.
        """
        expected = _integer_in_words(minimum, maximum)
        if key not in self.raw:
            raise UserError(f"{self.path} lacks {self.name(key)!r}", expected=expected, fix=_FIX)
        value = self.raw[key]
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            raise self.wrong(key, expected)
        return value

    def optional_integer(self, key: str, *, minimum: int = 1, maximum: int = MAX_INTEGER) -> int | None:
        """A whole number; None where it is absent or null.

        Raises:
            UserError: it is of another type, or out of range.
        """
        return self.integer(key, minimum=minimum, maximum=maximum) if self.has(key, null=True) else None

    def number(self, key: str, *, minimum: float = -math.inf, above: float = -math.inf) -> float:
        """A finite number that must be there, at least `minimum` and more than `above`.

        Raises:
            UserError: it is absent, of another type, not finite, or out of range.
        """
        expected = _number_in_words(minimum, above)
        if key not in self.raw:
            raise UserError(f"{self.path} lacks {self.name(key)!r}", expected=expected, fix=_FIX)
        value = self.raw[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, expected)
        try:
            number = float(value)
        except OverflowError:  # an integer beyond the floats
            raise self.wrong(key, expected) from None
        if not math.isfinite(number) or number < minimum or number <= above:
            raise self.wrong(key, expected)
        return number

    def optional_number(self, key: str, *, minimum: float = -math.inf, above: float = -math.inf) -> float | None:
        """A finite number; None where it is absent or null.

        Raises:
            UserError: it is of another type, not finite, or out of range.
        """
        return self.number(key, minimum=minimum, above=above) if self.has(key, null=True) else None

    def flag(self, key: str, *, default: bool) -> bool:
        """A boolean.

        Raises:
            UserError: it is of another type, also null.
        """
        value = self.raw.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def text(self, key: str, *, null: bool = False) -> str | None:
        """A text; None where it is absent, or null where that is allowed.

        Raises:
            UserError: it is of another type.
        """
        if not self.has(key, null=null):
            return None
        value = self.raw[key]
        if not isinstance(value, str) or has_surrogates(value):
            raise self.wrong(key, "a text")
        return value

    def section(self, key: str) -> Fields | None:
        """An object; None where it is absent or null.

        Raises:
            UserError: it is of another type.
        """
        if not self.has(key, null=True):
            return None
        value = self.raw[key]
        if not isinstance(value, dict):
            raise self.wrong(key, "an object or null")
        return Fields(value, self.path, f"{self.name(key)}.")


def _integer_in_words(minimum: int, maximum: int) -> str:
    return f"a whole number from {minimum} to {maximum}"


def _number_in_words(minimum: float, above: float) -> str:
    if math.isfinite(above):
        return f"a finite number above {above:g}"
    return f"a finite number, {minimum:g} or more" if math.isfinite(minimum) else "a finite number"
