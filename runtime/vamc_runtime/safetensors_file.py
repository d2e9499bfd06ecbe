"""Mapping a safetensors file: its header, and its tensors without a copy."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_runtime.errors import UserError

_DTYPES = {"F32": np.float32, "F16": np.float16, "I8": np.int8, "I32": np.int32}
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


def map_tensors(header: SafetensorsHeader) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Every tensor as an array over the mapped file (private mapping: nothing is ever written back)."""
    with header.path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    data = np.frombuffer(mapped, np.uint8)
    for name, entry in header.tensors.items():
        if name.startswith("__pad_"):
            continue
        begin, end = (header.data_start + offset for offset in entry["data_offsets"])
        yield name, data[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
