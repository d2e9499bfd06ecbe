"""How a kernel wants a weight matrix laid out in memory, as data that the weight half applies.

One layout per type of weight serves every instruction set, so that a runstream's weights are written once for all its
libraries. Dimension letters: o outputs (rows), i inputs (columns), k panels of 16 outputs. The last panel is filled up
with zero rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

PANEL_OUTPUTS = 16
"""Outputs of a panel: the 32-bit lanes of a 512-bit register, and the columns of an AMX tile."""


class Packing(Protocol):
    """A layout."""

    @property
    def name(self) -> str:
        """Name in the manifest."""

    def packed_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape after packing a matrix of `shape`."""

    def pack(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Pack rows [o, i], o a multiple of `PANEL_OUTPUTS` except at the end of the matrix."""


def _groups(rows: npt.NDArray[Any], inputs: int) -> npt.NDArray[Any]:
    """Panels with `inputs` neighbouring inputs of every output together: [k, ceil(i / inputs), 16, inputs]."""
    missing_rows, missing_columns = -len(rows) % PANEL_OUTPUTS, -rows.shape[1] % inputs
    if missing_rows or missing_columns:
        rows = np.pad(rows, ((0, missing_rows), (0, missing_columns)))
    groups: npt.NDArray[Any] = rows.reshape(-1, PANEL_OUTPUTS, rows.shape[1] // inputs, inputs).transpose(0, 2, 1, 3)
    return groups


@dataclass(frozen=True)
class PanelPacking:
    """[k, i + 2, 16]: for one input, 16 neighbouring outputs are one vector, and a panel is one stream (float16).

    The last two rows are zeros: a cache line that keeps neighbouring panels out of one another's cache sets where i is
    a power of two.
    """

    name: str = "panels"

    def packed_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """See `Packing.packed_shape`."""
        outputs, inputs = shape
        return (-(-outputs // PANEL_OUTPUTS), inputs + 2, PANEL_OUTPUTS)

    def pack(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """See `Packing.pack`."""
        panels = np.ascontiguousarray(_groups(rows, 1)[..., 0])  # of a transposed array np.pad may make another
        return np.pad(panels, ((0, 0), (0, 2), (0, 0)))


@dataclass(frozen=True)
class PairPacking:
    """[k, ceil(i / 2) + 1, 32]: 16 outputs times 2 inputs, as vdpbf16ps and AMX read them (bfloat16).

    The last row is zeros, as in `PanelPacking`.
    """

    name: str = "pairs"

    def packed_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """See `Packing.packed_shape`."""
        outputs, inputs = shape
        return (-(-outputs // PANEL_OUTPUTS), -(-inputs // 2) + 1, 2 * PANEL_OUTPUTS)

    def pack(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """See `Packing.pack`."""
        groups = _groups(rows, 2)
        return np.pad(groups.reshape(*groups.shape[:2], -1), ((0, 0), (0, 1), (0, 0)))


@dataclass(frozen=True)
class QuadPacking:
    """[k, ceil(i / 4) + 1, 64]: 16 outputs times 4 inputs, as vpdpbusd and AMX read them (int8).

    The last 64 bytes of a panel are 16 int32: 128 * the sum of each output's weights. Kernels whose activations are
    unsigned bytes, that is value + 128, subtract it.
    """

    name: str = "quads"

    def packed_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """See `Packing.packed_shape`."""
        outputs, inputs = shape
        return (-(-outputs // PANEL_OUTPUTS), -(-inputs // 4) + 1, 4 * PANEL_OUTPUTS)

    def pack(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """See `Packing.pack`."""
        groups = _groups(rows, 4)
        panels, quads = groups.shape[:2]
        packed = np.empty((panels, quads + 1, 4 * PANEL_OUTPUTS), np.int8)
        packed[:, :quads] = groups.reshape(panels, quads, -1)
        sums = np.zeros(panels * PANEL_OUTPUTS, np.int32)
        sums[: len(rows)] = 128 * rows.sum(axis=1, dtype=np.int32)
        packed[:, quads] = sums.view(np.int8).reshape(panels, -1)
        return packed


PANELS, PAIRS, QUADS = PanelPacking(), PairPacking(), QuadPacking()
