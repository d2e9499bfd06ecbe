"""A rank's weight file, read for verification: headers checked before anything is believed, parameters by rows.

Reading goes through plain reads and not through a mapping, so that memory stays bounded whatever the file's size.
Parameters are matrices [rows, columns] here; a vector is one column. Floats are handled as their bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vamc_compiler.parameters import ParameterSpec
from vamc_compiler.verify.unpacking import LAYOUTS, PANEL_OUTPUTS, Array, Layout, Unpacked
from vamc_runtime.errors import UserError
from vamc_runtime.safetensors_file import parse_header

PARAMETERS_FILE = "params.safetensors"
BITS: Mapping[str, np.dtype[Any]] = {
    "float32": np.dtype(np.uint32),
    "float16": np.dtype(np.uint16),
    "bfloat16": np.dtype(np.uint16),
    "int8": np.dtype(np.int8),
}
"""Type of parameter -> type of the numbers that are compared."""
_HEADER_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "I8"}


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a parameter: a vector is one column, further dimensions belong to the columns."""
    return (shape[0] if shape else 1), math.prod(shape[1:])


def as_floats(bits: Array, dtype: str) -> npt.NDArray[np.float32]:
    """Bits as the numbers they stand for."""
    if dtype == "bfloat16":
        return np.asarray((bits.astype(np.uint32) * np.uint32(1 << 16)).view(np.float32))
    if dtype == "float16":  # torch has the CPU do it, numpy computes it bit by bit
        writable = bits if bits.flags.writeable else bits.copy()  # torch warns of any other
        widened: npt.NDArray[np.float32] = torch.from_numpy(writable.view(np.float16)).float().numpy()
        return widened
    return np.asarray(bits.view(dtype), np.float32)


@dataclass(frozen=True)
class StoredBlock:
    """Some rows of a stored parameter."""

    bits: Array
    """[rows, columns]."""
    surplus: Array | None = None
    """What a packed block holds beyond the parameter's rows and columns, which must be zeros: the whole panels with
    the parameter's own numbers set to zero. None where the parameter is not packed."""
    sums: Array | None = None
    """Stored sums of whole panels' rows, int32; see `unpacking.Unpacked`."""


@dataclass(frozen=True)
class StoredParameter:
    """A parameter in a rank's file."""

    path: Path
    offset: int
    """First byte, from the start of the file."""
    dtype: str
    shape: tuple[int, ...]
    """The rank's shape before packing."""
    layout: Layout | None
    """None where the parameter is stored as it is."""

    def block(self, begin: int, end: int) -> StoredBlock:
        """Rows begin..end; begin is a multiple of 16 where the parameter is packed."""
        rows, columns = matrix_shape(self.shape)
        end = min(end, rows)
        if self.layout is None:
            return StoredBlock(self._read(begin * columns, (end - begin, columns)))
        assert begin % PANEL_OUTPUTS == 0, "packed parameters are read by panels"
        _, lines, width = self.layout.packed_shape(rows, columns)
        first, last = begin // PANEL_OUTPUTS, -(-end // PANEL_OUTPUTS)
        unpacked: Unpacked = self.layout.unpack(self._read(first * lines * width, (last - first, lines, width)))
        bits = unpacked.rows[: end - begin, :columns].copy()
        unpacked.rows[: end - begin, :columns] = 0
        return StoredBlock(bits, unpacked.rows, unpacked.sums)

    def _read(self, first: int, shape: tuple[int, ...]) -> Array:
        """Numbers of the file, from the parameter's `first` one on."""
        bits = BITS[self.dtype]
        num_bytes = math.prod(shape) * bits.itemsize
        with self.path.open("rb") as file:
            file.seek(self.offset + first * bits.itemsize)
            raw = file.read(num_bytes)
        if len(raw) != num_bytes:
            raise _unreadable(self.path, "it became shorter while it was read")
        return np.frombuffer(raw, bits).reshape(shape)


@dataclass(frozen=True)
class Misfit:
    """Why a parameter cannot be compared."""

    kind: str
    """missing, type or shape."""
    hint: str


class RankWeights:
    """A rank's weight file.

    Raises:
        UserError: it is missing, cannot be read, or is not a safetensors file.
    """

    def __init__(self, runstream: Path, rank: int) -> None:
        self.path = runstream / f"rank_{rank}" / PARAMETERS_FILE
        try:
            self._header = parse_header(self.path)
        except OSError as error:
            raise _unreadable(self.path, error.strerror or str(error)) from error
        except ValueError as error:
            raise _unreadable(self.path, str(error)) from None

    def find(self, spec: ParameterSpec) -> StoredParameter | Misfit:
        """Where a parameter lies; packed when its shape in the file is the packed one of its type."""
        entry = self._header.tensors.get(spec.name)
        if entry is None:
            return Misfit("missing", f"{self.path.parent.name}/{self.path.name} has no tensor of this name")
        if entry.dtype != _HEADER_NAMES[spec.dtype]:
            return Misfit("type", f"{entry.dtype}, not {_HEADER_NAMES[spec.dtype]}")
        layout = LAYOUTS.get(spec.dtype) if len(spec.shape) == 2 else None
        packed = None if layout is None else layout.packed_shape(*matrix_shape(spec.shape))
        if entry.shape not in (spec.shape, packed):
            either = f"{list(spec.shape)}" + (f" or {list(packed)} (packed)" if packed else "")
            return Misfit("shape", f"{list(entry.shape)}, not {either}")
        offset = self._header.data_start + entry.begin
        return StoredParameter(self.path, offset, spec.dtype, spec.shape, None if entry.shape == spec.shape else layout)


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} cannot be read: {reason}",
        expected="the weights of a rank, as `vamc compile` writes them",
        fix="copy the runstream again, or compile it again",
    )
