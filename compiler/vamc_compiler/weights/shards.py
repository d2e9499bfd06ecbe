"""One tensor's way from the checkpoint to a rank's file, block of rows by block of rows.

read rows -> normalise (NormHead) -> scale of the full row (int8) -> take the rank's columns, zeros where padded ->
cast or quantize -> pack -> write. The rank's rows are chosen by reading only them. Memory is bounded by the block,
whatever the tensor's size. No torch here: worker processes import this file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_compiler.packing import PANEL_OUTPUTS, Packing
from vamc_compiler.parameters import FromCheckpoint, ParameterDType, ParameterSpec
from vamc_compiler.sharding import Piece, Shard
from vamc_compiler.weights.stored_tensor import ITEM_BYTES, StoredTensor, read_exactly
from vamc_runtime.errors import UserError

BLOCK_BYTES = 2 << 20
"""Size of a block of rows in float32: large enough for long reads, small enough for the second and third cache and for
memory that is used again instead of coming from the kernel anew for every copy."""

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Destination:
    """Where a parameter goes: file, first byte, and how it is stored there."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    """The rank's shape before packing."""
    dtype: ParameterDType
    packing: Packing | None


@dataclass(frozen=True)
class TensorTask:
    """Write one parameter of one rank from its tensor in the checkpoint."""

    name: str
    source: StoredTensor
    origin: FromCheckpoint
    destination: Destination

    @property
    def num_elements(self) -> int:
        """Elements of the rank's part, the measure of progress."""
        return int(np.prod(self.destination.shape))


def _as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """A vector counts as one column, so that its elements are rows."""
    return (shape[0], 1) if len(shape) == 1 else (shape[0], int(np.prod(shape[1:])))


def _decode(raw: bytes, dtype: str) -> Rows:
    """Bytes of float32, float16 or bfloat16 as float32."""
    if dtype == "bfloat16":
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, dtype).astype(np.float32)


def _pieces(shard: Shard | None, dim: int, size: int) -> tuple[Piece, ...]:
    """What the shard takes along `dim`; everything when it splits another dimension."""
    return shard.pieces if shard is not None and shard.dim == dim else (Piece(0, size),)


def _cut(pieces: tuple[Piece, ...], begin: int, end: int) -> list[Piece]:
    """The pieces that make up elements begin..end of the rank's part."""
    cut, position = [], 0
    for piece in pieces:
        first, last = max(begin, position), min(end, position + piece.length)
        if first < last:
            start = None if piece.start is None else piece.start + first - position
            cut.append(Piece(start, last - first))
        position += piece.length
    return cut


def _read_rows(descriptor: int, source: StoredTensor, pieces: list[Piece]) -> Rows:
    """The full rows named by `pieces`, zeros where a piece is padding; float32 [rows, columns]."""
    _, columns = _as_matrix(source.shape)
    row_bytes = columns * ITEM_BYTES[source.dtype]
    blocks = []
    for piece in pieces:
        if piece.start is None:
            blocks.append(np.zeros((piece.length, columns), np.float32))
            continue
        raw = read_exactly(descriptor, piece.length * row_bytes, source.offset + piece.start * row_bytes, source.path)
        blocks.append(_decode(raw, source.dtype).reshape(piece.length, columns))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _take_columns(rows: Rows, pieces: tuple[Piece, ...]) -> Rows:
    if pieces == (Piece(0, rows.shape[1]),):
        return rows
    parts = [
        np.zeros((len(rows), piece.length), np.float32)
        if piece.start is None
        else rows[:, piece.start : piece.start + piece.length]
        for piece in pieces
    ]
    return np.concatenate(parts, axis=1)


def normalize_rows(rows: Rows) -> Rows:
    """Each row divided by its L2 norm, at least 1e-12 as in `torch.nn.functional.normalize`."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    return np.asarray(rows / np.maximum(norms, 1e-12)[:, None], np.float32)


def row_scales(rows: Rows) -> Rows:
    """max |row| / 127 of each row, 1 where that is zero, not finite where the row is not; float32 [rows]."""
    scales = np.abs(rows).max(axis=1) / np.float32(127)
    return np.asarray(np.where(scales == 0, 1, scales), np.float32)


def quantize_rows(rows: Rows, scales: Rows) -> npt.NDArray[np.int8]:
    """The nearest whole number of row / scale, ties to even, within ±127; int8 [rows, columns]."""
    return np.asarray(np.clip(np.rint(rows / scales[:, None]), -127, 127), np.int8)


def to_bfloat16(rows: Rows) -> npt.NDArray[np.uint16]:
    """The bits of the nearest bfloat16, ties to even; uint16, as numpy has no such type."""
    pattern = np.ascontiguousarray(rows).view(np.uint32)
    return np.asarray((pattern + 0x7FFF + ((pattern >> 16) & 1)) >> 16, np.uint16)


def _check_finite(values: npt.NDArray[Any], task: TensorTask) -> None:
    """Refuse what overflowed; `values` are floats, quantized numbers, or the bits of bfloat16."""
    if values.dtype == np.uint16:
        finite = bool((values & 0x7F80 != 0x7F80).all())
    elif values.dtype == np.float16:  # by its bits: numpy would widen every number first
        finite = bool((values.view(np.uint16) & 0x7C00 != 0x7C00).all())
    else:
        finite = values.dtype.kind != "f" or bool(np.isfinite(values).all())
    if not finite:
        raise UserError(
            f"tensor {task.origin.tensor} in {task.source.path} has values that {task.destination.dtype} cannot hold",
            expected="finite values, at most 65504 for float16",
            fix="the checkpoint is damaged, or the model needs another precision than fp16",
        )


def _process(rows: Rows, columns: tuple[Piece, ...], task: TensorTask) -> npt.NDArray[Any]:
    """The stored form of full rows: everything between reading and writing."""
    scales: Rows | None = None
    for step in task.origin.steps:
        if step == "normalize_rows":
            rows = normalize_rows(rows)
        else:
            scales = row_scales(rows)
            _check_finite(scales, task)
    if task.origin.steps and task.origin.steps[-1] == "row_scales":
        assert scales is not None, "row_scales computes them"
        return scales
    rows = _take_columns(rows, columns)
    stored: npt.NDArray[Any]
    if scales is not None:
        stored = quantize_rows(rows, scales)
    elif task.destination.dtype == "bfloat16":
        _check_finite(rows, task)  # rounding may turn the bits of a NaN into those of a number
        stored = to_bfloat16(rows)
    else:
        with np.errstate(over="ignore"):
            stored = rows.astype(task.destination.dtype)
    _check_finite(stored, task)
    return stored if task.destination.packing is None else task.destination.packing.pack(stored)


def _stored_blocks(task: TensorTask) -> Iterator[npt.NDArray[Any]]:
    """The stored form of a parameter, block of rows by block of rows."""
    source, shard = task.source, task.origin.shard
    full_rows, full_columns = _as_matrix(source.shape)
    row_pieces = _pieces(shard, 0, full_rows)
    column_pieces = _pieces(shard, 1, full_columns)
    num_rows = sum(piece.length for piece in row_pieces)
    width = 1 if task.destination.packing is None else PANEL_OUTPUTS
    block = max(1, BLOCK_BYTES // (4 * full_columns) // width) * width
    reader = os.open(source.path, os.O_RDONLY)
    try:
        for begin in range(0, num_rows, block):
            pieces = _cut(row_pieces, begin, min(begin + block, num_rows))
            yield _process(_read_rows(reader, source, pieces), column_pieces, task)
    finally:
        os.close(reader)


def write_tensor(task: TensorTask) -> int:
    """Carry out one task; returns its `num_elements`.

    Raises:
        UserError: the tensor holds values that the stored type cannot.
        OSError: reading or writing failed.
    """
    position = task.destination.offset
    writer = os.open(task.destination.path, os.O_WRONLY)
    try:
        for stored in _stored_blocks(task):
            position += _write_all(writer, stored, position)
    finally:
        os.close(writer)
    return task.num_elements


def read_parameter(source: StoredTensor, origin: FromCheckpoint, spec: ParameterSpec) -> npt.NDArray[Any]:
    """A rank's parameter as it is before packing, in `spec.shape`; bfloat16 as the bits of it, uint16.

    Raises:
        UserError: the tensor holds values that the stored type cannot.
        OSError: reading failed.
    """
    destination = Destination(source.path, 0, spec.shape, spec.dtype, None)
    whole: npt.NDArray[Any] | None = None  # filled block by block: a list of blocks would hold every number twice
    position = 0
    for block in _stored_blocks(TensorTask(spec.name, source, origin, destination)):
        if whole is None:
            whole = np.empty(math.prod(spec.shape), block.dtype)
        whole[position : position + block.size] = block.reshape(-1)
        position += block.size
    assert whole is not None and position == whole.size, "blocks cover the parameter"
    return whole.reshape(spec.shape)


def _write_all(descriptor: int, values: npt.NDArray[Any], offset: int) -> int:
    """Write an array's bytes at `offset`; returns how many."""
    view = memoryview(values.tobytes())
    done = 0
    while done < len(view):  # one call writes at most 2 GiB
        done += os.pwrite(descriptor, view[done:], offset + done)
    return done
