"""Mistakes in a build config: collected while it is read, shown together in one error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vamc_compiler.show import one_line
from vamc_runtime.errors import UserError

MAX_ORIGIN_CHARACTERS = 400


@dataclass(frozen=True)
class Place:
    """Where a key or value was written: a file with line and column, or a command-line option."""

    origin: str
    line: int | None = None  # from 1; None on the command line
    column: int | None = None  # from 1

    def __str__(self) -> str:
        return (
            one_line(self.origin, MAX_ORIGIN_CHARACTERS)
            if self.line is None
            else f"{self.origin}:{self.line}:{self.column}"
        )


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake; `key` is the dotted key path, empty when the file as a whole is wrong."""

    place: Place
    key: str = ""
    found: str
    expected: str = ""
    fix: str = ""


class RefusalError(Exception):
    """A value that cannot be taken. Always caught: the reader adds the key and collects it."""

    def __init__(self, place: Place, found: str, *, expected: str = "", fix: str = "") -> None:
        super().__init__(found)
        self.place = place
        self.found = found
        self.expected = expected
        self.fix = fix

    def as_problem(self, key: str, *, expected: str = "") -> Problem:
        return Problem(place=self.place, key=key, found=self.found, expected=self.expected or expected, fix=self.fix)


MAX_SHOWN_PROBLEMS = 50


def as_error(file: str, problems: Sequence[Problem]) -> UserError:
    """One error that shows every problem, in the order of the file, the command line last."""
    ordered = sorted(problems, key=_position)
    if len(ordered) == 1:
        only = ordered[0]
        return UserError(_headline(only), expected=only.expected, fix=only.fix)
    lines = [f"{file}: {len(ordered)} problems"]
    for problem in ordered[:MAX_SHOWN_PROBLEMS]:
        entry = str(UserError(_headline(problem), expected=problem.expected, fix=problem.fix))
        head, *rest = entry.splitlines()
        lines += [f"  {head}", *(f"    {line}" for line in rest)]
    if len(ordered) > MAX_SHOWN_PROBLEMS:
        lines.append(f"  and {len(ordered) - MAX_SHOWN_PROBLEMS} more")
    return UserError("\n".join(lines))


def _headline(problem: Problem) -> str:
    parts = [str(problem.place), one_line(problem.key), problem.found]
    return ": ".join(part for part in parts if part)


def _position(problem: Problem) -> tuple[bool, int, int]:
    place = problem.place
    return place.line is None, place.line or 0, place.column or 0
