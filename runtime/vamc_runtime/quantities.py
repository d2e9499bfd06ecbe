"""Numbers for people: as many digits as say something, whatever the size."""

from __future__ import annotations

import math


def significant(value: float, digits: int = 3) -> str:
    """`1,864`, `53.3`, `0.0421`: at least `digits` significant digits, never an exponent; zero is `0`.

    Args:
        value: finite.
        digits: of a number with a fraction; whole numbers of more digits keep them all.
    """
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"
