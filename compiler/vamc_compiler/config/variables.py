"""`${VAR}` and `${VAR:-default}` in texts, with the meaning they have in a shell; `$$` is one dollar sign."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from vamc_compiler.show import one_line

from .document import plain_value, unusable_characters
from .problems import Place, RefusalError
from .tree import ScalarTree

_REFERENCE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<body>[^{}]*)\}|(?P<open>\{))")
_BODY = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Expanded:
    """A value after expansion."""

    value: bool | int | float | str | None
    text: str
    quoted: bool  # the file has it in quotes; never so for a value that is one variable
    retyped: bool  # the whole value was one variable, so its type was read from the text
    from_environment: bool  # the text begins with what the environment supplied


def expand(scalar: ScalarTree, environment: Mapping[str, str]) -> Expanded:
    """A scalar with its variables replaced.

    Raises:
        RefusalError: a variable is unset and has no default, or a reference is malformed.
    """
    if not isinstance(scalar.value, str) or "$" not in scalar.text:
        return Expanded(
            value=scalar.value, text=scalar.text, quoted=scalar.quoted, retyped=False, from_environment=False
        )
    pieces: list[str] = []
    from_environment = False
    end = 0
    for match in _REFERENCE.finditer(scalar.text):
        pieces.append(scalar.text[end : match.start()])
        piece, supplied = _replacement(match, scalar.place, environment)
        from_environment |= supplied and match.start() == 0
        pieces.append(piece)
        end = match.end()
    text = "".join([*pieces, scalar.text[end:]])
    if found := unusable_characters(text):
        raise RefusalError(
            scalar.place, f"{one_line(scalar.text)} stands for a text with the character {found}", expected="UTF-8"
        )
    whole = _REFERENCE.fullmatch(scalar.text)
    retyped = whole is not None and whole["body"] is not None
    value = plain_value(text) if retyped else text
    quoted = scalar.quoted and not retyped
    return Expanded(value=value, text=text, quoted=quoted, retyped=retyped, from_environment=from_environment)


def _replacement(match: re.Match[str], place: Place, environment: Mapping[str, str]) -> tuple[str, bool]:
    """What one reference stands for, and whether the environment supplied it."""
    if match["dollar"]:
        return "$", False
    body = None if match["open"] else _BODY.fullmatch(match["body"])
    if body is None:
        found = f"the malformed variable {one_line(match.group())}"
        raise RefusalError(place, found, expected="${NAME} or ${NAME:-default}", fix="write $$ for a dollar sign")
    name, default = body["name"], body["default"]
    if default is None:
        if name not in environment:
            fix = f"set {one_line(name)}, or give a default: ${{{one_line(name)}:-default}}"
            raise RefusalError(place, f"the variable {one_line(name)}, which is not set", fix=fix)
        return environment[name], True
    if environment.get(name):
        return environment[name], True
    return default.replace("$$", "$"), False
