"""What a measured figure is: its name, its unit, how it is written, and who measures it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Unit = Literal["share", "ratio", "op/s", "flop/s", "B/s", "B", "s", "ms"]
Samples = Mapping[str, Sequence[float]]
"""Figure key -> its values: at least one for every round, in the base unit (seconds, bytes, operations)."""

_GIGA = 1e9
_DIGITS, _DIGITS_OF_TIMES = 3, 2
"""Significant digits of a figure that is no share."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How thoroughly to measure."""

    rounds: int
    """Each measures every case of a group in turn."""
    repeats: int
    """Repetitions within a round, after one for warm-up; their median counts."""
    quick: bool = False
    """Tiny sizes: shows that everything runs, and the values mean nothing."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Figures that one function measures together."""

    name: str
    units: Mapping[str, Unit]
    """Figure key -> unit."""
    measure: Callable[[Settings], Samples]
    """Leaves out what this machine cannot run."""


def _significant(value: float, digits: int) -> str:
    """With so many significant digits, without an exponent."""
    exponent = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{max(0, digits - 1 - exponent)}f}"


def write(unit: Unit, low: float, high: float) -> str:
    """A figure, or its range where both ends are written differently."""
    scale, suffix = {
        "share": (100.0, " %"),
        "ratio": (1.0, ""),
        "op/s": (1 / _GIGA, " GOP/s"),
        "flop/s": (1 / _GIGA, " GFLOP/s"),
        "B/s": (1 / _GIGA, " GB/s"),
        "B": (1 / _GIGA, " GB"),
        "s": (1.0, " s"),
        "ms": (1e3, " ms"),
    }[unit]
    digits = _DIGITS_OF_TIMES if unit in ("s", "ms") else _DIGITS
    texts = [f"{end * scale:.0f}" if unit == "share" else _significant(end * scale, digits) for end in (low, high)]
    return (texts[0] if texts[0] == texts[1] else " to ".join(texts)) + suffix
