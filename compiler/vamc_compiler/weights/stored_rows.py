"""The rows that a parameter's origin names, found in the files of a checkpoint and read. No torch here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_compiler.parameters import Source, TensorRows
from vamc_compiler.sharding import Piece
from vamc_compiler.weights.stored_tensor import ITEM_BYTES, StoredTensor, read_exactly


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns: a vector counts as one column, further dimensions belong to the columns."""
    return (shape[0] if shape else 1), int(np.prod(shape[1:], dtype=np.int64))


@dataclass(frozen=True)
class StoredRows:
    """Rows of one tensor, next to one another in a file."""

    path: Path
    offset: int
    """First byte, from the start of the file."""
    num_rows: int
    num_columns: int
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return self.num_columns * ITEM_BYTES[self.dtype]


def find_rows(source: Source, tensors: Mapping[str, StoredTensor]) -> tuple[StoredRows, ...]:
    """Where the rows of a source lie; shapes were checked before (`fit.py`)."""
    return tuple(_find(rows, tensors[rows.tensor]) for rows in source)


def _find(rows: TensorRows, tensor: StoredTensor) -> StoredRows:
    shape = tensor.shape if rows.index is None else tensor.shape[1:]
    num_rows, num_columns = as_matrix(shape)
    matrix_bytes = num_rows * num_columns * ITEM_BYTES[tensor.dtype]
    begin = tensor.offset + (rows.index or 0) * matrix_bytes
    wanted = num_rows - rows.first_row if rows.num_rows is None else rows.num_rows
    found = StoredRows(tensor.path, begin, wanted, num_columns, tensor.dtype)
    return StoredRows(tensor.path, begin + rows.first_row * found.row_bytes, wanted, num_columns, tensor.dtype)


class RowReader(AbstractContextManager["RowReader"]):
    """Reads rows from files that it opens when they are needed, and closes all at the end."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}

    def read(self, source: Sequence[StoredRows], pieces: Sequence[Piece]) -> npt.NDArray[Any]:
        """The rows named by `pieces`, zeros where a piece is padding; float32, or whole numbers as they are stored.

        Raises:
            UserError: a file became shorter.
            OSError: reading failed.
        """
        blocks = [block for piece in pieces for block in self._blocks(source, piece)]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def _blocks(self, source: Sequence[StoredRows], piece: Piece) -> list[npt.NDArray[Any]]:
        if piece.start is None:
            return [_decode(bytes(piece.length * source[0].row_bytes), source[0])]
        blocks, first_row = [], 0
        for rows in source:
            begin = max(piece.start - first_row, 0)
            end = min(piece.start + piece.length - first_row, rows.num_rows)
            if begin < end:
                offset = rows.offset + begin * rows.row_bytes
                raw = read_exactly(self._open(rows.path), (end - begin) * rows.row_bytes, offset, rows.path)
                blocks.append(_decode(raw, rows))
            first_row += rows.num_rows
        return blocks

    def _open(self, path: Path) -> int:
        if path not in self._descriptors:
            self._descriptors[path] = os.open(path, os.O_RDONLY)
        return self._descriptors[path]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()


def _decode(raw: bytes, rows: StoredRows) -> npt.NDArray[Any]:
    """Bytes as rows: float32, float16 and bfloat16 as float32, whole numbers as they are."""
    values: npt.NDArray[Any]
    if rows.dtype == "bfloat16":
        values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(raw, rows.dtype)
        if values.dtype.kind == "f":
            values = values.astype(np.float32)
    return values.reshape(-1, rows.num_columns)
