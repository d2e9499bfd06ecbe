"""How a kernel wants a weight matrix laid out in memory, as data that the weight half applies.

Dimension letters: o outputs (rows), i inputs (columns), k panels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class PanelPacking:
    """Rows in panels of `width`: weight [o, i] becomes [k, i, width], k = ceil(o / width).

    A kernel then reads, for one input, `width` neighbouring outputs as one vector, and a panel as one stream. The
    last panel is filled with zero rows.
    """

    width: int

    @property
    def name(self) -> str:
        """Name in the manifest."""
        return f"panel{self.width}"

    def packed_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape after packing."""
        outputs, inputs = shape
        return (-(-outputs // self.width), inputs, self.width)

    def pack(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Pack rows [o, i], o a multiple of `width` except at the end of the matrix; returns [k, i, width]."""
        missing = -len(rows) % self.width
        if missing:
            rows = np.concatenate((rows, np.zeros((missing, rows.shape[1]), rows.dtype)))
        panels = rows.reshape(-1, self.width, rows.shape[1]).transpose(0, 2, 1)
        return np.ascontiguousarray(panels)
