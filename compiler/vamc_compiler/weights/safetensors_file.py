"""Planning and writing a safetensors file whose tensors begin on 64-byte boundaries.

Compiled code assumes 64-byte alignment of every buffer, and the runtime maps the file. The format wants the tensors
to cover the data without holes (https://huggingface.co/docs/safetensors, "Format"), so gaps are tensors named
`__pad_<i>`. The plan fixes every offset before any data exists: tensors are then written in any order, by any
process.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ALIGNMENT_BYTES = 64
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "int32": 4, "uint8": 1}
_FORMAT_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "I8", "int32": "I32", "uint8": "U8"}


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies in the file."""

    offset: int
    """First byte, from the start of the file."""
    num_bytes: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class FilePlan:
    """A file with every offset fixed and no data yet."""

    header: bytes
    entries: Mapping[str, Entry]
    num_bytes: int
    """Size of the whole file."""


def plan_file(tensors: Sequence[tuple[str, tuple[int, ...], str]], metadata: Mapping[str, str]) -> FilePlan:
    """Lay out tensors given as (name, shape, dtype), in this order."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    relative: dict[str, Entry] = {}
    position = 0
    for name, shape, dtype in tensors:
        num_bytes = math.prod(shape) * ITEM_BYTES[dtype]
        end = position + num_bytes
        header[name] = {"dtype": _FORMAT_NAMES[dtype], "shape": list(shape), "data_offsets": [position, end]}
        relative[name] = Entry(position, num_bytes, shape, dtype)
        padding = -end % ALIGNMENT_BYTES
        if padding:
            pad = f"__pad_{len(relative)}"
            header[pad] = {"dtype": "U8", "shape": [padding], "data_offsets": [end, end + padding]}
        position = end + padding
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-(8 + len(encoded)) % ALIGNMENT_BYTES)  # trailing spaces are part of the format
    start = 8 + len(encoded)
    entries = {
        name: Entry(start + entry.offset, entry.num_bytes, entry.shape, entry.dtype) for name, entry in relative.items()
    }
    return FilePlan(len(encoded).to_bytes(8, "little") + encoded, entries, start + position)


def create_file(path: Path, plan: FilePlan) -> None:
    """Write the header and reserve the space, so that a full disk shows before hours of work."""
    import os

    with path.open("wb") as file:
        file.write(plan.header)
        file.flush()
        os.posix_fallocate(file.fileno(), 0, plan.num_bytes)
