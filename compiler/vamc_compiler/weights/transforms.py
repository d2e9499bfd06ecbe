"""Transforms carried out on blocks of full rows; what each does is said in `vamc_compiler.transforms`.

No torch here: worker processes import this file.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_compiler.transforms import QUANT, SCALE, WEIGHT, AsStored, Int8Rows, Transform, UnitRows

Rows = npt.NDArray[np.float32]
Outputs = Mapping[str, npt.NDArray[Any]]
"""By the name of the output: [rows, columns], or [rows] where there is one number for each row."""


@functools.singledispatch
def carry_out(transform: Transform, sources: Sequence[npt.NDArray[Any]], wanted: Collection[str]) -> Outputs:
    """Carry out a transform on some rows.

    Args:
        transform: what to do.
        sources: the same rows of every source, [rows, columns]: float32, or whole numbers as they are stored.
        wanted: names of the outputs that are needed; others may be left out.
    """
    raise NotImplementedError(f"weights/transforms.py does not know {type(transform).__name__}")


@carry_out.register
def _(transform: AsStored, sources: Sequence[Rows], wanted: Collection[str]) -> Outputs:
    return {WEIGHT: sources[0]}


@carry_out.register
def _(transform: UnitRows, sources: Sequence[Rows], wanted: Collection[str]) -> Outputs:
    return {WEIGHT: normalize_rows(sources[0])}


@carry_out.register
def _(transform: Int8Rows, sources: Sequence[Rows], wanted: Collection[str]) -> Outputs:
    rows = carry_out(transform.of, sources, (WEIGHT,))[WEIGHT]
    scales = row_scales(rows)
    outputs: dict[str, npt.NDArray[Any]] = {SCALE: scales}
    if QUANT in wanted and np.isfinite(scales).all():  # what is not finite is refused, with its name, by its scale
        outputs[QUANT] = quantize_rows(rows, scales)
    return outputs


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
