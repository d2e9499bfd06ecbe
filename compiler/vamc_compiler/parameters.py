"""Where each parameter of a rank comes from: the list that the graph half hands to the weight half.

A modeling file states the origin of every parameter as data (`declare`); nothing else connects the two halves.
No torch here: worker processes that write weights import this file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from vamc_compiler.sharding import Shard
from vamc_compiler.transforms import AS_STORED, WEIGHT, Transform

ParameterDType = Literal["float32", "float16", "bfloat16", "int8"]


@dataclass(frozen=True)
class TensorRows:
    """Rows of one tensor of the checkpoint."""

    tensor: str
    """Name of the tensor in the checkpoint; in `declare` relative to the module, from the root with a leading `/`."""
    index: int | None = None
    """Which matrix of a stack [number, rows, columns]; None where the tensor itself has the rows."""
    first_row: int = 0
    """First row to take, of a fused tensor say."""
    num_rows: int | None = None
    """Number of rows to take; None for all from `first_row` on."""

    @property
    def is_whole(self) -> bool:
        """Whether it takes the tensor as it is."""
        return self.index is None and self.first_row == 0 and self.num_rows is None


Source = tuple[TensorRows, ...]
"""One input of a transform: the rows of one tensor, or of several, one below the other."""


@dataclass(frozen=True)
class Origin:
    """A parameter that is made of tensors of the checkpoint.

    A transform sees full rows; the rank's part is taken from what it makes. Parameters with the same sources,
    transform and rows (a weight and its scale, a row-parallel layer on every rank) are made in one read.
    """

    sources: tuple[Source, ...]
    """The inputs of the transform."""
    shard: Shard | None = None
    """The rank's part of the output; None for all of it."""
    transform: Transform = AS_STORED
    """What is done with full rows."""
    output: str = WEIGHT
    """Which of the transform's outputs the parameter is."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of all tensors that are read, each once."""
        return tuple(dict.fromkeys(rows.tensor for source in self.sources for rows in source))

    @property
    def is_per_row(self) -> bool:
        """Whether it has one number for each row of a matrix, so that a split of the columns leaves it whole."""
        return self.output in self.transform.per_row

    def renamed(self, rename: Callable[[str], str]) -> Origin:
        """The same with other names of tensors."""
        sources = (tuple(replace(rows, tensor=rename(rows.tensor)) for rows in source) for source in self.sources)
        return replace(self, sources=tuple(sources))


def from_tensor(tensor: str, shard: Shard | None = None, transform: Transform = AS_STORED) -> Origin:
    """The origin of a parameter that is made of one whole tensor."""
    return Origin(((TensorRows(tensor),),), shard, transform)


@dataclass(frozen=True)
class FromValue:
    """A parameter that the modeling file computes (ALiBi slopes, rotary frequencies)."""

    value: npt.NDArray[np.float32]


def declare(module: object, **origins: Origin | FromValue) -> None:
    """State the origin of parameters of `module`; tensor names are relative to the module's path."""
    known: dict[str, Origin | FromValue] = getattr(module, "origins", {})
    object.__setattr__(module, "origins", {**known, **origins})


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter of one rank, as the compiled step takes it before packing."""

    name: str
    shape: tuple[int, ...]
    dtype: ParameterDType
    origin: Origin | FromValue

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the checkpoint's tensors that it is made of; none for a computed value."""
        return self.origin.tensors if isinstance(self.origin, Origin) else ()

    @property
    def full_shape(self) -> tuple[int, ...]:
        """Its shape on one rank that holds everything."""
        origin = self.origin
        if not isinstance(origin, Origin) or origin.shard is None or (origin.is_per_row and origin.shard.dim != 0):
            return self.shape
        return origin.shard.full_shape(self.shape)
