"""A safetensors file: its header, and its tensors as arrays over bytes that lie in memory.

The header is read strictly, as the format has it (https://huggingface.co/docs/safetensors, "Format"): every tensor's
bytes fit its shape and type, and together they cover the data once, without holes. Nothing here needs the runtime's
other parts, so that readers of checkpoints can use it too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_runtime.errors import UserError
from vamc_runtime.strict_json import parse_json, shown

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
"""Types of a rank's tensors by their names in the header."""
ITEM_BITS = {name: 8 * np.dtype(kind).itemsize for name, kind in DTYPES.items()} | {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of an element of every type that the format has."""
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
MAX_DIMENSIONS = 64
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_PAD = "__pad_"


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies."""

    dtype: str
    """As the header names it."""
    shape: tuple[int, ...]
    begin: int
    """First byte, from the start of the data."""
    end: int
    """Byte behind the last."""


@dataclass(frozen=True)
class SafetensorsHeader:
    """What a file holds."""

    path: Path
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorEntry]
    """By name, in the order of the header."""
    data_start: int
    """First byte of the data."""


def is_pad(name: str) -> bool:
    """Whether a tensor only fills a gap, so that the next one is aligned."""
    return name.startswith(_PAD)


def read_header(path: Path) -> SafetensorsHeader:
    """Read and check the header of a runstream's file; see `parse_header`.

    Raises:
        UserError: the file cannot be read, is not a safetensors file, or a damaged one; says what is wrong.
    """
    try:
        return parse_header(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}", fix="check that it is still there, and its permissions"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: {error}",
            expected="a safetensors file whose tensors cover its data",
            fix="copy the file again, or the whole folder",
        ) from None


def parse_header(path: Path) -> SafetensorsHeader:
    """Read and check the header.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a safetensors file, or a damaged one; says what is wrong.
    """
    with path.open("rb") as file:
        num_bytes = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        room = min(num_bytes - _LENGTH_BYTES, MAX_HEADER_BYTES)
        content = file.read(length) if length <= room else b""
    if not content.startswith(b"{"):
        raise ValueError("it is not a safetensors file")
    header = parse_json(content, max_bytes=MAX_HEADER_BYTES)
    metadata = _read_metadata(header.pop(_METADATA, {}))
    tensors = {name: _read_entry(name, entry) for name, entry in header.items()}
    data_start = _LENGTH_BYTES + length
    _check_cover(tensors, data_start, num_bytes)
    return SafetensorsHeader(path, metadata, tensors, data_start)


def _read_metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"its {_METADATA} is {shown(value)}, not an object of texts")
    return value


def _read_entry(name: str, value: Any) -> TensorEntry:
    """One tensor of the header, checked by itself."""
    if not isinstance(value, dict) or not value.keys() >= {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"its entry {shown(name)} is {shown(value)}, not dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        raise ValueError(f"its tensor {shown(name)} has the type {shown(dtype)}, not one of {', '.join(ITEM_BITS)}")
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"its tensor {shown(name)} has the shape {shown(shape)}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"its tensor {shown(name)} has the data_offsets {shown(offsets)}")
    begin, end = offsets
    if 8 * (end - begin) != math.prod(shape) * ITEM_BITS[dtype]:
        raise ValueError(f"its tensor {shown(name)}, {dtype} {shown(shape)}, lies in {end - begin} bytes")
    return TensorEntry(dtype, tuple(shape), begin, end)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_cover(tensors: Mapping[str, TensorEntry], data_start: int, num_bytes: int) -> None:
    """The tensors cover the data once: no holes, no overlaps, nothing behind the last."""
    position = 0
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            raise ValueError(f"its tensor {shown(name)} begins at byte {entry.begin} of the data, not {position}")
        position = entry.end
        if data_start + position > num_bytes:
            raise ValueError(
                f"its tensor {shown(name)} ends at byte {data_start + position} of {num_bytes}: the file is cut off"
            )
    if data_start + position != num_bytes:
        raise ValueError(f"its tensors end at byte {position} of {num_bytes - data_start} of the data")


def tensor_views(header: SafetensorsHeader, file: npt.NDArray[np.uint8]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Name and array of every tensor but pads, without a copy.

    Args:
        header: the file's header.
        file: the whole file, uint8 [bytes]; see `weights_memory.load_file`.

    Raises:
        UserError: a type that this version does not know.
    """
    for name, entry in header.tensors.items():
        if is_pad(name):
            continue
        if entry.dtype not in DTYPES:
            raise UserError(
                f"{shown(name)} in {header.path} has type {entry.dtype}",
                expected=f"one of {', '.join(DTYPES)}",
                fix="update vamc on this machine, or compile the runstream again with this version",
            )
        begin, end = header.data_start + entry.begin, header.data_start + entry.end
        yield name, file[begin:end].view(DTYPES[entry.dtype]).reshape(entry.shape)
