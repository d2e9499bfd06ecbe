"""Where the tensors of a safetensors file lie (https://huggingface.co/docs/safetensors, "Format").

The safetensors library decides whether a file is valid: what it refuses (tensors that overlap, holes, a name twice,
bytes beyond the last tensor, sizes that overflow) is refused here. It does not tell offsets, which are therefore read
from the header once more. Reads are plain `pread`: mapped pages would count as resident memory until the whole
checkpoint has passed by, and a file that shrinks under a mapping kills the process.
"""

from __future__ import annotations

import json
import math
import operator
from pathlib import Path
from typing import Any

from vamc_compiler.show import one_line
from vamc_compiler.weights.stored_tensor import ITEM_BYTES, StoredTensor, damaged
from vamc_runtime.git_lfs import refuse_lfs_pointer

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "I32": "int32", "I8": "int8", "U8": "uint8"}
_MAX_HEADER_BYTES = 100 << 20
"""The library's own limit."""


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Index a file; reads its header only.

    Raises:
        UserError: the file is damaged, cut off, or a Git LFS pointer.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        beginning = file.read(64)
        refuse_lfs_pointer(path, beginning)
        length = int.from_bytes(beginning[:8], "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise damaged(path, f"it has {size} bytes and a header of {length}")
        file.seek(8)
        header = _parse_header(path, file.read(length))
    tensors = {
        name: _stored_tensor(path, name, entry, 8 + length, size)
        for name, entry in header.items()
        if name != "__metadata__"
    }
    _check_with_library(path)
    return tensors


def _parse_header(path: Path, encoded: bytes) -> dict[str, Any]:
    try:
        header = json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"its header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise damaged(path, "its header is not a JSON object")
    return header


def _stored_tensor(path: Path, name: str, entry: Any, data_start: int, file_bytes: int) -> StoredTensor:
    """Check one tensor's entry of a header, for a better message than the library's."""
    try:
        begin, end = map(operator.index, entry["data_offsets"])
        shape = tuple(map(operator.index, entry["shape"]))
        dtype = _DTYPES.get(entry["dtype"], str(entry["dtype"]))
    except (KeyError, TypeError, ValueError):
        raise damaged(path, f"its header describes tensor {one_line(name)} as {_short(entry)}") from None
    fits = dtype not in ITEM_BYTES or math.prod(shape) * ITEM_BYTES[dtype] == end - begin
    if begin < 0 or min(shape, default=0) < 0 or not fits:
        raise damaged(path, f"its header describes tensor {one_line(name)} as {_short(entry)}")
    if data_start + end > file_bytes:
        raise damaged(
            path, f"tensor {one_line(name)} ends at byte {data_start + end} of {file_bytes}: the file is cut off"
        )
    return StoredTensor(path, data_start + begin, shape, dtype)


def _short(entry: Any) -> str:
    """A header's entry in at most a line."""
    return one_line(json.dumps(entry), 120)


def _check_with_library(path: Path) -> None:
    """Refuse what the safetensors library refuses; it checks when it opens a file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy", backend="pread"):
            pass
    except SafetensorError as error:
        raise damaged(path, f"the safetensors library refuses it: {one_line(str(error))}") from None
