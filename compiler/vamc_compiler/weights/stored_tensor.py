"""A tensor that lies somewhere in a file, and reads that never go past what is there. No torch here."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from vamc_runtime.errors import UserError

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int32": 4, "int8": 1, "uint8": 1}
"""The types that weights can be made of, with the bytes of one number; whole numbers hold packed ones."""


@dataclass(frozen=True)
class StoredTensor:
    """A contiguous tensor somewhere in a file."""

    path: Path
    offset: int
    """First byte, from the start of the file."""
    shape: tuple[int, ...]
    dtype: str
    """One of `ITEM_BYTES`; other types by the name that their container has for them."""

    @property
    def num_bytes(self) -> int:
        """Size in the file; only for the types of `ITEM_BYTES`."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def damaged(path: Path, reason: str) -> UserError:
    """The error for a weight file that is not what its format asks for."""
    return UserError(
        f"{path} is damaged: {reason}",
        expected="a complete weight file",
        fix="download it again and compare its size with the published one",
    )


def read_exactly(descriptor: int, num_bytes: int, offset: int, path: Path) -> bytes:
    """Bytes of an open file.

    Raises:
        UserError: the file ends before them: it was longer when its tensors were looked up.
        OSError: reading failed.
    """
    parts: list[bytes] = []
    while num_bytes > 0:  # one call reads at most 2 GiB
        part = os.pread(descriptor, num_bytes, offset)
        if not part:
            raise UserError(
                f"{path} became shorter while it was read",
                expected="a checkpoint that nobody changes",
                fix="leave the checkpoint alone until the command ends, then run it again",
            )
        parts.append(part)
        num_bytes -= len(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
