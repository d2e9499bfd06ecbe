"""What a setting must fulfil beyond its type; attached to the type with `Annotated` in schema.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

# File systems allow 255; the rest is for the suffix that a runstream has while it is being built.
MAX_NAME_BYTES = 200


@dataclass(frozen=True)
class AtLeast:
    """The smallest and the largest integer allowed; the latter by default what compiled code can count."""

    minimum: int
    maximum: int = 2**31 - 1


@dataclass(frozen=True)
class Between:
    """The smallest and the largest number allowed; None for the latter is no limit."""

    minimum: float
    maximum: float | None = None

    @property
    def description(self) -> str:
        """The bounds in words."""
        if self.maximum is None:
            return f"a number, {self.minimum:g} or more"
        return f"a number from {self.minimum:g} to {self.maximum:g}"

    def holds(self, value: float) -> bool:
        """Whether a number lies between the bounds, which belong to the range."""
        return value >= self.minimum and (self.maximum is None or value <= self.maximum)


@dataclass(frozen=True)
class Checked:
    """A text with rules of its own."""

    description: str
    complaint: Callable[[str], str]  # what is wrong with a value; empty when nothing is


class PathRole(Enum):
    """Which directory a relative path starts from."""

    INPUT = "the directory of the build config"
    OUTPUT = "the current directory"


def _directory_name_complaint(name: str) -> str:
    if not name.strip():
        return "it is empty"
    if "/" in name:
        return "it contains a slash"
    if name in (".", ".."):
        return "it names an existing directory"
    if not name.isprintable():
        return "it contains a character that cannot be printed"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"it is longer than {MAX_NAME_BYTES} bytes"
    return ""


def _cpu_name_complaint(name: str) -> str:
    return "" if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) else "it is not a CPU name"


NonNegativeInt = Annotated[int, AtLeast(0)]
TextTokens = Annotated[int, AtLeast(1, 1 << 20)]
PositiveInt = Annotated[int, AtLeast(1)]
NonNegativeFloat = Annotated[float, Between(0.0)]
Ratio = Annotated[float, Between(1.0)]
Share = Annotated[float, Between(0.0, 1.0)]
InputPath = Annotated[Path, PathRole.INPUT]
OutputPath = Annotated[Path, PathRole.OUTPUT]
DirectoryName = Annotated[str, Checked("a text usable as one directory name", _directory_name_complaint)]
CpuName = Annotated[str, Checked("an LLVM CPU name such as x86-64-v3 or znver4", _cpu_name_complaint)]
