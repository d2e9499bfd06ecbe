"""Reading the JSON files of a checkpoint: whatever lies there, an object comes back or a message."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from vamc_compiler.show import describe_json, one_line
from vamc_runtime.errors import UserError
from vamc_runtime.git_lfs import refuse_lfs_pointer

MAX_JSON_BYTES = 32 << 20
"""Larger than the index of any published checkpoint; what is parsed takes up to twenty times as much memory."""


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object; `what` names the file in errors.

    Raises:
        UserError: the file is missing, unreadable or not a JSON object.
    """
    data = _read_bytes(path, what)
    try:
        content = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        found = f"{path} cannot be read: it is not UTF-8 (byte 0x{data[error.start]:02x} at {error.start})"
        raise UserError(found, expected=f"{what}, a JSON object in UTF-8", fix="save it as UTF-8") from error
    except _DuplicateKeyError as error:
        found = f"{path} has two different values for {one_line(error.key)!r}"
        raise UserError(
            found, expected=f"{what}, each key once", fix="keep the one that belongs to the weights"
        ) from error
    except RecursionError as error:
        raise UserError(f"{path} cannot be read: it is nested too deeply", expected=f"{what}, a JSON object") from error
    except ValueError as error:  # also an integer of more digits than Python converts
        raise UserError(f"{path} cannot be read: {error}", expected=f"{what}, a JSON object") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {describe_json(content)}", expected=f"{what}, a JSON object")
    return content


def _read_bytes(path: Path, what: str) -> bytes:
    """The content of a regular file of a size that such files have."""
    try:
        if path.is_symlink() and not path.exists():
            raise UserError(
                f"{path} is a link to {path.readlink()}, which does not exist",
                expected=f"{what} of a Hugging Face checkpoint directory",
                fix="copy the checkpoint with its linked files (cp -rL), or finish its download",
            )
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise UserError(f"{path} cannot be read: it is {kind}", expected=f"{what}, a JSON object")
        if status.st_size > MAX_JSON_BYTES:
            raise UserError(
                f"{path} has {status.st_size} bytes",
                expected=f"{what}, a JSON object of at most {MAX_JSON_BYTES} bytes",
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist",
            expected=f"{what} of a Hugging Face checkpoint directory",
            fix="check frontend.checkpoint (or $VAMC_CHECKPOINT)",
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}", expected=f"{what}, a JSON object") from error
    refuse_lfs_pointer(path, data, expected=f"{what}, a JSON object")
    return data


class _DuplicateKeyError(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; JSON leaves open which of two values for one key counts."""
    result = dict(pairs)
    if len(result) < len(pairs):
        for key, value in pairs:
            if result[key] != value:
                raise _DuplicateKeyError(key)
    return result
