"""Full rows of a checkpoint's tensors, read for verification by other code than that of weights/stored_rows.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vamc_compiler.parameters import Source
from vamc_compiler.verify.stored_weights import BITS, matrix_shape
from vamc_compiler.verify.unpacking import Array
from vamc_compiler.weights.stored_tensor import StoredTensor
from vamc_runtime.errors import UserError

_BITS = {**BITS, "int32": np.dtype(np.int32), "uint8": np.dtype(np.uint8)}
"""Type of tensor -> type of the numbers that are read; whole numbers hold packed weights."""


@dataclass(frozen=True)
class SourceRows:
    """The rows of one source of a transform."""

    tensors: str
    """Their names, for messages."""
    files: tuple[Path, ...]
    """Where the rows of each part lie."""
    row_offsets: npt.NDArray[np.int64]
    """For each row its first byte in its file, [rows]."""
    row_files: npt.NDArray[np.int64]
    """For each row the number of its file, [rows]."""
    num_columns: int
    dtype: str

    @property
    def num_rows(self) -> int:
        """All rows, of all parts."""
        return len(self.row_offsets)

    def read(self, places: npt.NDArray[np.int64]) -> Array:
        """Some rows as bits [places, columns], zeros where a place is negative; neighbours are read together."""
        dtype = _BITS[self.dtype]
        rows = np.zeros((len(places), self.num_columns), dtype)
        (true,) = np.nonzero(places >= 0)
        if not len(true):
            return rows
        offsets, files = self.row_offsets[places[true]], self.row_files[places[true]]
        row_bytes = self.num_columns * dtype.itemsize
        breaks = (np.diff(true) != 1) | (np.diff(offsets) != row_bytes) | (np.diff(files) != 0)
        try:
            for run in np.split(np.arange(len(true)), np.nonzero(breaks)[0] + 1):
                with self.files[files[run[0]]].open("rb") as file:
                    file.seek(int(offsets[run[0]]))
                    raw = np.frombuffer(file.read(len(run) * row_bytes), dtype)
                rows[true[run[0]] : true[run[-1]] + 1] = raw.reshape(len(run), self.num_columns)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.tensors} in {', '.join(map(str, self.files))} cannot be read: {error}",
                expected="the checkpoint that the runstream was compiled from, unchanged",
                fix="check that the file is whole and can be read",
            ) from error
        return rows


def find_source(source: Source, tensors: Mapping[str, StoredTensor]) -> SourceRows:
    """Where the rows of a source lie; `tensors` are the checkpoint's."""
    offsets, files = [], []
    for number, part in enumerate(source):
        tensor = tensors[part.tensor]
        rows, columns = matrix_shape(tensor.shape)
        if part.index is not None:
            rows, columns = tensor.shape[1], tensor.shape[2]
        last = rows if part.num_rows is None else part.first_row + part.num_rows
        wanted = np.arange(part.first_row, last, dtype=np.int64) + rows * (part.index or 0)
        offsets.append(tensor.offset + wanted * columns * _BITS[tensor.dtype].itemsize)
        files.append(np.full(len(wanted), number))
    return SourceRows(
        tensors=", ".join(part.tensor for part in source),
        files=tuple(tensors[part.tensor].path for part in source),
        row_offsets=np.concatenate(offsets),
        row_files=np.concatenate(files),
        num_columns=columns,
        dtype=tensor.dtype,
    )
