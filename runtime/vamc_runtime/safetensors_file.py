"""A safetensors file: its header, and its tensors as arrays over bytes that lie in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_runtime.errors import UserError

DTYPES = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,  # numpy has no bfloat16; compiled code reads the bits
    "I8": np.int8,
    "U8": np.uint8,
    "I16": np.int16,
    "U16": np.uint16,
    "I32": np.int32,
    "U32": np.uint32,
}
"""Types of tensors by their names in the header."""
MAX_HEADER_BYTES = 100 << 20


@dataclass(frozen=True)
class SafetensorsHeader:
    """What a file holds."""

    path: Path
    metadata: Mapping[str, str]
    tensors: Mapping[str, Any]
    """Name to {dtype, shape, data_offsets}."""
    data_start: int
    """First byte of the data."""


def read_header(path: Path) -> SafetensorsHeader:
    """Read the header.

    Raises:
        UserError: not a safetensors file.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            content = json.loads(file.read(length)) if length <= MAX_HEADER_BYTES else None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no safetensors file", fix="copy or compile the runstream again")
    metadata = content.pop("__metadata__", {})
    return SafetensorsHeader(path, metadata, content, 8 + length)


def tensor_views(header: SafetensorsHeader, file: npt.NDArray[np.uint8]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Name and array of every tensor but pads, without a copy.

    Args:
        header: the file's header.
        file: the whole file, uint8 [bytes]; see `weights_memory.load_file`.

    Raises:
        UserError: a type that this version does not know.
    """
    for name, entry in header.tensors.items():
        if name.startswith("__pad_"):
            continue
        if entry["dtype"] not in DTYPES:
            raise UserError(
                f"{name} in {header.path} has type {entry['dtype']}",
                expected=f"one of {', '.join(DTYPES)}",
                fix="update vamc on this machine, or compile the runstream again with this version",
            )
        begin, end = (header.data_start + offset for offset in entry["data_offsets"])
        yield name, file[begin:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
