"""Reads the text and JSON files that a checkpoint publishes beside its weights, whatever their state."""

from __future__ import annotations

import json
from typing import Any

from vamc_runtime.errors import UserError
from vamc_runtime.git_lfs import refuse_lfs_pointer
from vamc_runtime.stored_path import ReadablePath


def read_file(path: ReadablePath) -> bytes:
    """The bytes of a checkpoint file.

    Raises:
        UserError: the file cannot be read, or is a Git LFS pointer instead of the file itself.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", fix="check the path and its permissions") from error
    refuse_lfs_pointer(path, data, fix="run `git lfs pull` in the checkpoint and publish its tokenizer files again")
    return data


def read_text(path: ReadablePath) -> str:
    """The text of a UTF-8 file.

    Raises:
        UserError: as `read_file`, or the file is not UTF-8.
    """
    try:
        return read_file(path).decode()
    except UnicodeDecodeError as error:
        raise damaged(path, error, expected="UTF-8 text") from error


def read_json(path: ReadablePath) -> dict[str, Any]:
    """The object in a JSON file; empty when there is no such file.

    Raises:
        UserError: the file is not valid JSON, its top level is not an object, or a text in it is not valid Unicode.
    """
    if not path.exists():
        return {}
    source = read_text(path)
    try:
        content = json.loads(source)
        if "\\ud" in source.lower():
            # A lone surrogate passes JSON, and fails in every library that a text is given to.
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise damaged(path, error, expected="a JSON object") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}", expected="a JSON object", fix="copy it again")
    return content


def damaged(path: ReadablePath, error: BaseException, expected: str = "") -> UserError:
    """The error for a file that a library cannot read."""
    return UserError(
        f"{path} is damaged: {error}", expected=expected, fix="copy it again from the checkpoint and compare its size"
    )
