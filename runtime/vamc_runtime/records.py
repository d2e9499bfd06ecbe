"""Checked records from JSON: every value is compared with the annotation of the dataclass field that it fills.

What a runstream's files hold is data from outside. Field types may be str, int, float, bool, Literal, another
dataclass, `X | None`, tuple[X, ...], dict[str, X] and Any; keys that a class does not have are ignored.
"""

from __future__ import annotations

import dataclasses
import stat
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from vamc_runtime.errors import UserError
from vamc_runtime.strict_json import parse_json, shown

T = TypeVar("T")
MAX_BYTES = 16 << 20
"""Size of a record's file at most: far above any real one, and its values fit into memory whatever they are."""
COPY_OR_COMPILE = "copy the runstream again, or compile it again"


def read_content(path: Path) -> bytes:
    """The bytes of a record's file.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such file.
        UserError: it cannot be read, or is larger than a record can be.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
            raise UserError(f"{path} cannot be read: it is not a file", fix=COPY_OR_COMPILE)
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", fix="check the path and its permissions") from None
    return content


def parse_versioned(content: bytes, path: Path, schema_version: int) -> dict[str, Any]:
    """The JSON object of a file that has a `schema_version`.

    Args:
        content: the file.
        path: its name, for messages.
        schema_version: the only one that this runtime reads.

    Raises:
        UserError: it is not such a file, or has another schema version.
    """
    try:
        value = parse_json(content, max_bytes=MAX_BYTES)
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}", fix=COPY_OR_COMPILE) from None
    version = value.get("schema_version") if isinstance(value, dict) else None
    if type(version) is not int or version != schema_version:
        newer = isinstance(version, int) and version > schema_version
        raise UserError(
            f"{path} has schema version {shown(version)}",
            expected=f"version {schema_version}, which this runtime reads",
            fix="update vamc on this machine" if newer else "compile the runstream again with this version",
        )
    assert isinstance(value, dict), "it has a version"
    return value


def read_record(kind: type[T], content: bytes, path: Path, schema_version: int) -> T:
    """A dataclass that has a `schema_version`, from the content of its JSON file.

    Args:
        kind: the dataclass. A ValueError of its own checks is taken for damage.
        content: the file.
        path: its name, for messages.
        schema_version: the only one that this runtime reads.

    Raises:
        UserError: it is damaged, or has another schema version.
    """
    value = parse_versioned(content, path, schema_version)
    try:
        return build_record(kind, value, str(path))
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
        raise UserError(f"{where} is {shown(value)}", expected="an object", fix="compile the runstream again")
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
        f"{where} is {shown(value)}",
        expected=_describe(kind),
        fix="the file was damaged or edited: compile the runstream again",
    )


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    return str(getattr(kind, "__name__", kind))
