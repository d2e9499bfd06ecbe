"""Checked records from JSON: every value is compared with the annotation of the dataclass field that it fills.

What a runstream's files hold is data from outside. Field types may be str, int, float, bool, Literal, another
dataclass, `X | None`, tuple[X, ...], dict[str, X] and Any; keys that a class does not have are ignored.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from vamc_runtime.errors import UserError

T = TypeVar("T")


def read_record(kind: type[T], path: Path, schema_version: int) -> T:
    """Read a JSON file into a dataclass that has a `schema_version`.

    Args:
        kind: the dataclass. A ValueError of its own checks is taken for damage.
        path: the file.
        schema_version: the only one that this runtime reads.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such file.
        UserError: it cannot be read, is damaged, or has another schema version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}", fix="compile the runstream again") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != schema_version:
        newer = isinstance(version, int) and version > schema_version
        raise UserError(
            f"{path} has schema version {version}",
            expected=f"version {schema_version}, which this runtime reads",
            fix="update vamc on this machine" if newer else "compile the runstream again with this version",
        )
    try:
        return build_record(kind, content, str(path))
    except ValueError as error:
        raise UserError(f"{path}: {error}", fix="compile the runstream again") from None


def build_record(kind: type[T], value: Any, where: str) -> T:
    """Build a dataclass from parsed JSON.

    Args:
        kind: the dataclass.
        value: what JSON had in its place.
        where: file and key, for messages.

    Raises:
        UserError: keys are missing, or a value has another type; names the place.
    """
    if not isinstance(value, dict):
        raise UserError(f"{where} is {value!r}", expected="an object", fix="compile the runstream again")
    hints = typing.get_type_hints(kind)
    missing = sorted(hints.keys() - value.keys())
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}", fix="compile the runstream again")
    return kind(**{name: _build(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})


def _build(kind: Any, value: Any, where: str) -> Any:
    """Check `value` against a type annotation and build it."""
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return build_record(kind, value, where)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _build(typing.get_args(kind)[0], value, where)
    if origin is tuple and isinstance(value, list):
        item = typing.get_args(kind)[0]
        return tuple(_build(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict and isinstance(value, dict):
        item = typing.get_args(kind)[1]
        return {k: _build(item, v, f"{where}.{k}") for k, v in value.items()}
    if origin is typing.Literal and isinstance(value, str) and value in typing.get_args(kind):
        return value
    if kind is float and type(value) in (int, float):  # JSON may write 1.0 as 1
        return float(value)
    if origin is None and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise UserError(
        f"{where} is {value!r}",
        expected=_describe(kind),
        fix="the file was damaged or edited: compile the runstream again",
    )


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    return str(getattr(kind, "__name__", kind))
