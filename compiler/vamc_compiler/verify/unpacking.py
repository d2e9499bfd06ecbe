"""Packed weight matrices back to rows, to be compared with the checkpoint.

Written from the layouts that packing.py describes and not from its code, so that a mistake in either shows. Dimension
letters: o outputs (rows), i inputs (columns), k panels of 16 outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

PANEL_OUTPUTS = 16
OFFSET = 128
"""What kernels add to a signed byte to make it unsigned; panels of int8 hold this multiple of each row's sum."""


@dataclass(frozen=True)
class Unpacked:
    """Whole panels as rows."""

    rows: Array
    """[16 * k, inputs]: what a layout fills up with zeros, below and on the right, is still there."""
    sums: npt.NDArray[np.int32] | None = None
    """[16 * k]: 128 * the sum of each row, as stored beside int8 weights; None for the other types."""


@dataclass(frozen=True)
class Layout:
    """How the weights of one type are packed."""

    name: str
    """As in packing.py and the manifest."""
    together: int
    """Neighbouring inputs of an output that lie together."""
    extra_lines: int
    """Lines at the end of a panel that hold no weights."""
    unpack: Callable[[Array], Unpacked]
    """[k, lines, 16 * together] to rows."""

    def packed_shape(self, outputs: int, inputs: int) -> tuple[int, int, int]:
        """Shape that a matrix [outputs, inputs] has when it is packed."""
        panels, lines = -(-outputs // PANEL_OUTPUTS), -(-inputs // self.together)
        return panels, lines + self.extra_lines, PANEL_OUTPUTS * self.together


def _rows_of(panels: Array, together: int) -> Array:
    """[k, lines, 16 * together] to [16 * k, lines * together]."""
    num_panels, lines, _ = panels.shape
    words = panels.view(f"u{panels.itemsize * together}")  # [k, lines, 16]: what lies together moves together
    rows = np.ascontiguousarray(words.transpose(0, 2, 1)).view(panels.dtype)
    return rows.reshape(num_panels * PANEL_OUTPUTS, lines * together)


def unpack_panels(panels: Array) -> Unpacked:
    """float16: a line is one input of 16 outputs; the two lines of zeros at the end become two columns."""
    return Unpacked(_rows_of(panels, 1))


def unpack_pairs(panels: Array) -> Unpacked:
    """bfloat16: a line is two inputs of 16 outputs; the line of zeros at the end becomes two columns."""
    return Unpacked(_rows_of(panels, 2))


def unpack_quads(panels: Array) -> Unpacked:
    """int8: a line is four inputs of 16 outputs; the last line of a panel is 16 int32, the sums."""
    sums = np.ascontiguousarray(panels[:, -1]).view(np.int32).reshape(-1)
    return Unpacked(_rows_of(panels[:, :-1], 4), sums)


LAYOUTS: Mapping[str, Layout] = {
    "float16": Layout("panels", 1, 2, unpack_panels),
    "bfloat16": Layout("pairs", 2, 1, unpack_pairs),
    "int8": Layout("quads", 4, 1, unpack_quads),
}
"""The layout of each type of weight; float32 parameters are never packed."""
