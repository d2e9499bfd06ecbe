"""Where the tensors of a safetensors file of a checkpoint lie.

The header is read as the runtime reads that of a runstream (`vamc_runtime.safetensors_file`). The safetensors library
has the last word on whether a file is valid: it does not tell offsets, but what it refuses is refused here. Reads are
plain `pread`: mapped pages would count as resident memory until the whole checkpoint has passed by, and a file that
shrinks under a mapping kills the process.
"""

from __future__ import annotations

from pathlib import Path

from vamc_compiler.show import one_line
from vamc_compiler.weights.stored_tensor import StoredTensor, damaged
from vamc_runtime.git_lfs import refuse_lfs_pointer
from vamc_runtime.safetensors_file import parse_header

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "I32": "int32", "I8": "int8", "U8": "uint8"}
_POINTER_BYTES = 64
"""More than a Git LFS pointer has in its first line."""


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Index a file; reads its header only.

    Raises:
        UserError: the file is damaged, cut off, or a Git LFS pointer.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        refuse_lfs_pointer(path, file.read(_POINTER_BYTES))
    try:
        header = parse_header(path)
    except ValueError as error:
        raise damaged(path, one_line(str(error))) from None
    _check_with_library(path)
    return {
        name: StoredTensor(path, header.data_start + entry.begin, entry.shape, _DTYPES.get(entry.dtype, entry.dtype))
        for name, entry in header.tensors.items()
    }


def _check_with_library(path: Path) -> None:
    """Refuse what the safetensors library refuses; it checks when it opens a file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy", backend="pread"):
            pass
    except SafetensorError as error:
        raise damaged(path, f"the safetensors library refuses it: {one_line(str(error))}") from None
