"""What a rank's parameter must hold, computed from the checkpoint a second time.

Nothing here comes from weights/shards.py and weights/transforms.py, which compute the same for the files: a mistake
there is to be found. What a transform does is said in `vamc_compiler.transforms`; it sees full rows, before the rank's
columns are taken. Rows that a shard leaves empty are made of rows of zeros.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from vamc_compiler.parameters import FromValue, Origin, ParameterSpec
from vamc_compiler.sharding import Piece
from vamc_compiler.transforms import AS_STORED, FLOAT_TYPES, SCALE, WEIGHT, AsStored, Int8Rows, Transform, UnitRows
from vamc_compiler.verify.source_rows import SourceRows, find_source
from vamc_compiler.verify.stored_weights import BITS, as_floats, matrix_shape
from vamc_compiler.verify.unpacking import PANEL_OUTPUTS, Array
from vamc_compiler.weights.stored_tensor import StoredTensor

WEIGHT_ULPS, SCALE_ULPS = 1, 2
"""Units in the last place by which a normalised row may differ, and a scale of one: a norm depends on the order in
which squares are added."""
TIE_WIDTH = 1e-4
"""How near to a tie an int8 weight of a normalised row may be rounded to either side; a quotient of up to 127 is
exact to 1e-5."""
SMALLEST_EXACT_SCALE = 1e-30
"""Quotients by a scale of this or more round to at most 127. Far smaller ones are denormal, so coarsely rounded that a
quotient may be larger."""
BLOCK_BYTES = 4 << 20
"""Size of a block of full rows in float32; some copies of one are in memory at a time. Larger ones are no faster:
their memory comes from the kernel anew each time."""


@dataclass(frozen=True)
class ExpectedBlock:
    """Some rows of a parameter, and how exactly they must be met."""

    bits: Array
    """[rows, columns], as in `stored_weights`."""
    ulps: int = 0
    """Units in the last place that are allowed."""
    quotients: npt.NDArray[np.float32] | None = None
    """What was rounded to int8, where `TIE_WIDTH` is allowed."""

    def differs_from(self, found: Array) -> npt.NDArray[np.bool_]:
        """Which of the stored numbers [rows, columns] are wrong."""
        differs: npt.NDArray[np.bool_] = self.bits != found
        if self.ulps and differs.any():
            differs &= np.abs(_ordinals(self.bits) - _ordinals(found)) > self.ulps
        if self.quotients is not None and differs.any():
            differs &= np.abs(found - self.quotients) > 0.5 + TIE_WIDTH
        return differs


class ExpectedRows(Protocol):
    """A parameter that is known row by row."""

    @property
    def shape(self) -> tuple[int, int]:
        """The rank's rows and columns."""

    @property
    def columns_read(self) -> int:
        """Columns that are read to know a row."""

    def block(self, begin: int, end: int) -> ExpectedBlock:
        """Rows begin..end."""


@dataclass(frozen=True)
class GivenRows:
    """A parameter that the modeling file computed."""

    origin: FromValue
    dtype: str

    @property
    def shape(self) -> tuple[int, int]:
        """See `ExpectedRows`."""
        return matrix_shape(self.origin.value.shape)

    @property
    def columns_read(self) -> int:
        """See `ExpectedRows`."""
        return self.shape[1]

    def block(self, begin: int, end: int) -> ExpectedBlock:
        """See `ExpectedRows`."""
        values = np.ascontiguousarray(self.origin.value, np.float32).reshape(self.shape)
        return ExpectedBlock(_round(values[begin:end], self.dtype))


@dataclass(frozen=True)
class CheckpointRows:
    """A rank's part of what a transform makes of tensors of the checkpoint."""

    sources: tuple[SourceRows, ...]
    origin: Origin
    dtype: str
    split_first: bool = False
    """Take the rank's columns before the transform: what it would be if that common mistake were made."""

    @property
    def shape(self) -> tuple[int, int]:
        """See `ExpectedRows`."""
        return len(self._row_places), 1 if self.origin.is_per_row else len(self._column_places)

    @property
    def columns_read(self) -> int:
        """See `ExpectedRows`."""
        return max(source.num_columns for source in self.sources)

    def block(self, begin: int, end: int) -> ExpectedBlock:
        """See `ExpectedRows`."""
        bits = [source.read(self._row_places[begin:end]) for source in self.sources]
        if self.origin.transform == AS_STORED and self.sources[0].dtype == self.dtype:
            return ExpectedBlock(self._take(bits[0]))
        with np.errstate(all="ignore"):  # a value that the type cannot hold differs from any that is stored
            rows = [_numbers(part, source.dtype) for part, source in zip(bits, self.sources, strict=True)]
            if self.split_first:
                rows = [self._take(part) for part in rows]
            values = expect(self.origin.transform, rows, self.origin.output)
            if not (self.split_first or self.origin.is_per_row):
                quotients = None if values.quotients is None else self._take(values.quotients)
                values = replace(values, numbers=self._take(values.numbers), quotients=quotients)
            return ExpectedBlock(_round(values.numbers, self.dtype), values.ulps, values.quotients)

    @cached_property
    def _row_places(self) -> npt.NDArray[np.int64]:
        return self._places(0, self.sources[0].num_rows)

    @cached_property
    def _column_places(self) -> npt.NDArray[np.int64]:
        return self._places(1, num_columns(self.origin.transform, self.sources))

    def _places(self, dim: int, size: int) -> npt.NDArray[np.int64]:
        """For each of the rank's indices along `dim` the index in the full tensor, -1 where it is padding."""
        shard = self.origin.shard
        pieces: Sequence[Piece] = (Piece(0, size),) if shard is None or shard.dim != dim else shard.pieces
        runs: list[npt.NDArray[np.int64]] = [
            np.full(piece.length, -1) if piece.start is None else piece.start + np.arange(piece.length)
            for piece in pieces
        ]
        return np.concatenate([np.empty(0, np.int64), *runs]).astype(np.int64)

    def _take(self, rows: Array) -> Array:
        """The rank's columns of full rows."""
        places = self._column_places
        first = int(places[0]) if len(places) else 0
        if first >= 0 and np.array_equal(places, first + np.arange(len(places))):
            return rows[:, first : first + len(places)]
        part: Array = rows[:, np.maximum(places, 0)]
        part[:, places < 0] = 0
        return part


@dataclass(frozen=True)
class Values:
    """What a transform must make of full rows."""

    numbers: Array
    """float32 or whole numbers, [rows, columns]."""
    ulps: int = 0
    """See `ExpectedBlock`."""
    quotients: npt.NDArray[np.float32] | None = None
    """See `ExpectedBlock`."""


@functools.singledispatch
def expect(transform: Transform, sources: Sequence[Array], output: str) -> Values:
    """One output of a transform, computed from full rows [rows, columns] of its sources."""
    raise NotImplementedError(f"verify/expected_weights.py does not know {type(transform).__name__}")


@expect.register
def _(transform: AsStored, sources: Sequence[Array], output: str) -> Values:
    return Values(sources[0])


@expect.register
def _(transform: UnitRows, sources: Sequence[Array], output: str) -> Values:
    wide = sources[0].astype(np.float64)
    lengths = np.sqrt(np.sum(wide * wide, axis=1, keepdims=True))
    return Values((wide / np.maximum(lengths, 1e-12)).astype(np.float32), WEIGHT_ULPS)


@expect.register
def _(transform: Int8Rows, sources: Sequence[Array], output: str) -> Values:
    rows = expect(transform.of, sources, WEIGHT)
    scales = _scales(rows.numbers)
    if output == SCALE:
        return Values(scales, SCALE_ULPS if rows.ulps else 0)
    quotients = np.asarray(rows.numbers / scales, np.float32)
    whole = np.rint(quotients)
    if scales.min() < SMALLEST_EXACT_SCALE:
        np.clip(whole, -127, 127, out=whole)
    return Values(whole.astype(np.int8), quotients=quotients if rows.ulps else None)


@functools.singledispatch
def num_columns(transform: Transform, sources: Sequence[SourceRows]) -> int:
    """Columns of what a transform makes, beside what is per row: those of its first source unless it says otherwise."""
    return sources[0].num_columns


def _numbers(bits: Array, dtype: str) -> Array:
    """Bits as the numbers they stand for: float32, or whole numbers as they are."""
    return as_floats(bits, dtype) if dtype in FLOAT_TYPES else bits


def row_blocks(rows: ExpectedRows) -> Iterator[tuple[int, int]]:
    """First row and end of each block, by whole panels of 16."""
    num_rows = rows.shape[0]
    size = max(PANEL_OUTPUTS, BLOCK_BYTES // (4 * max(1, rows.columns_read)) // PANEL_OUTPUTS * PANEL_OUTPUTS)
    for begin in range(0, num_rows, size):
        yield begin, min(begin + size, num_rows)


def expected_rows(spec: ParameterSpec, tensors: Mapping[str, StoredTensor]) -> ExpectedRows:
    """What a parameter must hold; `tensors` are the checkpoint's."""
    if isinstance(spec.origin, FromValue):
        return GivenRows(spec.origin, spec.dtype)
    sources = tuple(find_source(source, tensors) for source in spec.origin.sources)
    return CheckpointRows(sources, spec.origin, spec.dtype)


def _scales(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scale of each row, float32 [rows, 1]; dividing in float64 first rounds to the same float32."""
    largest = np.maximum(rows.max(axis=1, keepdims=True), -rows.min(axis=1, keepdims=True))
    scales = (largest.astype(np.float64) / 127).astype(np.float32)
    return np.asarray(np.where(scales == 0, 1, scales), np.float32)


def _round(rows: npt.NDArray[np.float32], dtype: str) -> Array:
    """The bits of the nearest numbers of a type, ties to even; whole numbers are those of int8 already."""
    if dtype == "float16":  # torch has the CPU do it, numpy computes it bit by bit
        return np.asarray(torch.from_numpy(np.ascontiguousarray(rows)).half().numpy().view(BITS[dtype]))
    if dtype != "bfloat16":
        return np.asarray(rows.astype(dtype).view(BITS[dtype]))
    bits = np.ascontiguousarray(rows).view(np.uint32)
    kept, dropped = bits // 0x10000, bits % 0x10000
    up = (dropped > 0x8000) | ((dropped == 0x8000) & (kept % 2 == 1))
    return np.asarray(kept + up, np.uint16)


def _ordinals(bits: Array) -> npt.NDArray[np.int64]:
    """Whole numbers in the order of the floats, neighbours one apart."""
    sign = 1 << (8 * bits.dtype.itemsize - 1)
    wide = bits.astype(np.int64)
    return np.where(wide >= sign, sign - wide, wide)
