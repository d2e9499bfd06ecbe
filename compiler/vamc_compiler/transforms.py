"""What is done with tensors of a checkpoint before they are stored, as data.

A transform takes full rows of its sources, float32 or whole numbers [rows, columns], and gives the rows of every
parameter that it makes. Full rows, before a split of the columns: ranks then agree with one another and with one rank.

It is carried out twice, by code that shares nothing: `weights/transforms.py` writes weights with it, and
`verify/expected_weights.py` says what must have been written. To add one, describe it here and name it in both.
No torch here: worker processes that write weights import this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

Shape = tuple[int, ...]
WEIGHT, QUANT, SCALE = "weight", "quant", "scale"
"""Names of outputs."""
FLOAT_TYPES = ("float32", "float16", "bfloat16")
"""Types of a checkpoint's weights that are not quantized."""


class Transform(Protocol):
    """What a transform makes, and of what."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the parameters that it makes."""

    @property
    def per_row(self) -> frozenset[str]:
        """The outputs that have one number for each row."""

    @property
    def source_types(self) -> tuple[tuple[str, ...], ...]:
        """The types that each source may have."""

    def source_shapes(self, output: str, shape: Shape) -> tuple[Shape | None, ...]:
        """The shape that each source must have for an output of this shape; None where the output does not tell."""


@dataclass(frozen=True)
class _MatrixToMatrix:
    """A transform that makes one matrix of another of the same shape."""

    outputs = (WEIGHT,)
    per_row = frozenset[str]()
    source_types = (FLOAT_TYPES,)

    def source_shapes(self, output: str, shape: Shape) -> tuple[Shape | None, ...]:
        """See `Transform`."""
        return (shape,)


@dataclass(frozen=True)
class AsStored(_MatrixToMatrix):
    """The tensor itself, rounded to the type of the parameter."""


@dataclass(frozen=True)
class UnitRows(_MatrixToMatrix):
    """Each row divided by its L2 norm, at least 1e-12 as in `torch.nn.functional.normalize` (NormHead)."""


@dataclass(frozen=True)
class Int8Rows:
    """int8 with one float32 scale per row: max |row| / 127, 1 for a row of zeros; round half to even.

    Semantics of source_code/quantizer_vacc.py.
    """

    of: AsStored | UnitRows = AsStored()
    """What is quantized."""

    outputs = (QUANT, SCALE)
    per_row = frozenset({SCALE})
    source_types = (FLOAT_TYPES,)

    def source_shapes(self, output: str, shape: Shape) -> tuple[Shape | None, ...]:
        """See `Transform`."""
        return self.of.source_shapes(WEIGHT, shape) if output == QUANT else (None,)


AS_STORED, UNIT_ROWS = AsStored(), UnitRows()
