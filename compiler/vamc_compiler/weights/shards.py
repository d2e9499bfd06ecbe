"""The way of tensors from the checkpoint to the ranks' files, block of rows by block of rows.

read full rows of every source -> transform -> for each parameter and rank: take its columns, zeros where padded ->
round to its type -> pack -> write. Parameters that are made of the same rows share one read and one transform.
Memory is bounded by the block, whatever the tensor's size. No torch here: worker processes import this file.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_compiler.packing import PANEL_OUTPUTS, Packing
from vamc_compiler.parameters import Origin, ParameterDType, ParameterSpec
from vamc_compiler.sharding import Piece, Shard
from vamc_compiler.transforms import Transform
from vamc_compiler.weights.stored_rows import RowReader, StoredRows, find_rows
from vamc_compiler.weights.stored_tensor import StoredTensor
from vamc_compiler.weights.transforms import Rows, carry_out
from vamc_runtime.errors import UserError

BLOCK_BYTES = 2 << 20
"""Size of a block of rows in float32: large enough for long reads, small enough for the second and third cache and for
memory that is used again instead of coming from the kernel anew for every copy."""


@dataclass(frozen=True)
class StoredForm:
    """What becomes of an output's full rows."""

    output: str
    """Name of the transform's output."""
    columns: tuple[Piece, ...] | None
    """The rank's columns; None where there is one number for each row."""
    dtype: ParameterDType
    packing: Packing | None


@dataclass(frozen=True)
class Destination:
    """A parameter's place in a rank's file."""

    path: Path
    offset: int
    """First byte, from the start of the file."""
    shape: tuple[int, ...]
    """The rank's shape before packing."""
    form: StoredForm

    @property
    def num_elements(self) -> int:
        """Elements before packing."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class TransformTask:
    """Write every parameter that is made of the same rows by the same transform."""

    tensors: tuple[str, ...]
    """Names in the checkpoint, for messages."""
    sources: tuple[tuple[StoredRows, ...], ...]
    transform: Transform
    rows: tuple[Piece, ...]
    """The full rows to read, in the order in which they are stored."""
    destinations: tuple[Destination, ...]

    @property
    def num_elements(self) -> int:
        """Elements of all parameters, the measure of progress."""
        return sum(destination.num_elements for destination in self.destinations)


@dataclass(frozen=True)
class PlacedParameter:
    """A parameter with its place."""

    spec: ParameterSpec
    path: Path
    offset: int
    packing: Packing | None


def plan_tasks(placed: Iterable[PlacedParameter], tensors: Mapping[str, StoredTensor]) -> list[TransformTask]:
    """One task for all parameters, of any rank, that are made of the same rows; values of modeling files have none."""
    groups: dict[tuple[Any, ...], list[PlacedParameter]] = {}
    for parameter in placed:
        origin = parameter.spec.origin
        if isinstance(origin, Origin):
            key = (origin.sources, origin.transform, _row_pieces(origin, tensors))
            groups.setdefault(key, []).append(parameter)
    return [_plan_task(group, tensors) for group in groups.values()]


def _plan_task(group: Sequence[PlacedParameter], tensors: Mapping[str, StoredTensor]) -> TransformTask:
    origin = group[0].spec.origin
    assert isinstance(origin, Origin), "a task makes parameters from the checkpoint"
    return TransformTask(
        tensors=origin.tensors,
        sources=tuple(find_rows(source, tensors) for source in origin.sources),
        transform=origin.transform,
        rows=_row_pieces(origin, tensors),
        destinations=tuple(
            Destination(
                parameter.path, parameter.offset, parameter.spec.shape, _form(parameter.spec, parameter.packing)
            )
            for parameter in group
        ),
    )


def _row_pieces(origin: Origin, tensors: Mapping[str, StoredTensor]) -> tuple[Piece, ...]:
    num_rows = sum(rows.num_rows for rows in find_rows(origin.sources[0], tensors))
    return _pieces(origin.shard, 0, num_rows)


def _pieces(shard: Shard | None, dim: int, size: int) -> tuple[Piece, ...]:
    """What the shard takes along `dim`; everything when it splits another dimension."""
    return shard.pieces if shard is not None and shard.dim == dim else (Piece(0, size),)


def _form(spec: ParameterSpec, packing: Packing | None) -> StoredForm:
    origin = spec.origin
    assert isinstance(origin, Origin), "a computed value is stored as it is"
    columns = None if origin.is_per_row else _pieces(origin.shard, 1, math.prod(spec.full_shape[1:]))
    return StoredForm(origin.output, columns, spec.dtype, packing)


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


def _take_columns(rows: npt.NDArray[Any], pieces: tuple[Piece, ...]) -> npt.NDArray[Any]:
    if pieces == (Piece(0, rows.shape[1]),):
        return rows
    parts = [
        np.zeros((len(rows), piece.length), rows.dtype)
        if piece.start is None
        else rows[:, piece.start : piece.start + piece.length]
        for piece in pieces
    ]
    return np.concatenate(parts, axis=1)


def to_bfloat16(rows: Rows) -> npt.NDArray[np.uint16]:
    """The bits of the nearest bfloat16, ties to even; uint16, as numpy has no such type."""
    pattern = np.ascontiguousarray(rows).view(np.uint32)
    return np.asarray((pattern + 0x7FFF + ((pattern >> 16) & 1)) >> 16, np.uint16)


def _check_finite(values: npt.NDArray[Any], dtype: str, task: TransformTask) -> None:
    """Refuse what overflowed; `values` are floats, quantized numbers, or the bits of bfloat16."""
    if values.dtype == np.uint16:
        finite = bool((values & 0x7F80 != 0x7F80).all())
    elif values.dtype == np.float16:  # by its bits: numpy would widen every number first
        finite = bool((values.view(np.uint16) & 0x7C00 != 0x7C00).all())
    else:
        finite = values.dtype.kind != "f" or bool(np.isfinite(values).all())
    if not finite:
        paths = dict.fromkeys(str(rows.path) for source in task.sources for rows in source)
        raise UserError(
            f"tensor {', '.join(task.tensors)} in {', '.join(paths)} has values that {dtype} cannot hold",
            expected="finite values, at most 65504 for float16",
            fix="the checkpoint is damaged, or the model needs another precision than fp16",
        )


def _store(values: npt.NDArray[Any], form: StoredForm, task: TransformTask) -> npt.NDArray[Any]:
    """An output's full rows as one rank stores them."""
    rows = values if form.columns is None else _take_columns(values, form.columns)
    stored: npt.NDArray[Any]
    if form.dtype == "bfloat16":
        _check_finite(rows, form.dtype, task)  # rounding may turn the bits of a NaN into those of a number
        stored = to_bfloat16(rows)
    else:
        with np.errstate(over="ignore"):
            stored = rows.astype(form.dtype, copy=False)
    _check_finite(stored, form.dtype, task)
    return stored if form.packing is None else form.packing.pack(stored)


def _stored_blocks(task: TransformTask) -> Iterator[list[npt.NDArray[Any]]]:
    """Block of rows by block of rows, what each destination stores of it."""
    forms = [destination.form for destination in task.destinations]
    wanted = {form.output for form in forms}
    num_rows = sum(piece.length for piece in task.rows)
    most_columns = max(source[0].num_columns for source in task.sources)
    width = 1 if all(form.packing is None for form in forms) else PANEL_OUTPUTS
    block = max(1, BLOCK_BYTES // (4 * max(1, most_columns)) // width) * width
    with RowReader() as reader:
        for begin in range(0, num_rows, block):
            pieces = _cut(task.rows, begin, min(begin + block, num_rows))
            outputs = carry_out(task.transform, [reader.read(source, pieces) for source in task.sources], wanted)
            for name in outputs.keys() - wanted:  # what the others were made with
                _check_finite(outputs[name], forms[0].dtype, task)
            made: dict[StoredForm, npt.NDArray[Any]] = {}
            for form in sorted(set(forms), key=lambda form: form.columns is not None):  # scales say first what is wrong
                made[form] = _store(outputs[form.output], form, task)
            yield [made[form] for form in forms]


def write_tensors(task: TransformTask) -> int:
    """Carry out one task; returns its `num_elements`.

    Raises:
        UserError: a tensor holds values that the stored type cannot.
        OSError: reading or writing failed.
    """
    positions = [destination.offset for destination in task.destinations]
    with contextlib.ExitStack() as stack:
        writers = {}
        for path in {destination.path for destination in task.destinations}:
            writers[path] = os.open(path, os.O_WRONLY)
            stack.callback(os.close, writers[path])
        for blocks in _stored_blocks(task):
            for number, (destination, stored) in enumerate(zip(task.destinations, blocks, strict=True)):
                positions[number] += _write_all(writers[destination.path], stored, positions[number])
    return task.num_elements


def read_parameter(spec: ParameterSpec, tensors: Mapping[str, StoredTensor]) -> npt.NDArray[Any]:
    """A rank's parameter as it is before packing, in `spec.shape`; bfloat16 as the bits of it, uint16.

    Raises:
        UserError: the tensor holds values that the stored type cannot.
        OSError: reading failed.
    """
    (task,) = plan_tasks([PlacedParameter(spec, Path(), 0, None)], tensors)
    whole: npt.NDArray[Any] | None = None  # filled block by block: a list of blocks would hold every number twice
    position = 0
    for (block,) in _stored_blocks(task):
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
