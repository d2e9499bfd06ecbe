"""Where each parameter of a rank comes from: the list that the graph half hands to the weight half.

A modeling file states the origin of every parameter as data (`declare`); nothing else connects the two halves.
No torch here: worker processes that write weights import this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from vamc_compiler.sharding import Shard

ParameterDType = Literal["float32", "float16", "bfloat16", "int8"]

RowStep = Literal["normalize_rows", "quantize_rows", "row_scales"]
"""What happens to the rows of a tensor before they are stored, in the order listed.

normalize_rows: each row divided by its L2 norm (NormHead).
quantize_rows: int8 with one scale per row, round half to even (quantizer_vacc.py).
row_scales: those scales, float32, one per row.
All three see the full row, before a split of the columns: ranks then agree with one another and with tp 1.
"""


@dataclass(frozen=True)
class FromCheckpoint:
    """A parameter read from the checkpoint: tensor, the rank's part of it, and what is done to its rows."""

    tensor: str
    shard: Shard | None = None
    steps: tuple[RowStep, ...] = ()


@dataclass(frozen=True)
class FromValue:
    """A parameter that the modeling file computes (ALiBi slopes, rotary frequencies)."""

    value: npt.NDArray[np.float32]


Origin = FromCheckpoint | FromValue


class HasOrigins(Protocol):
    """A module that states where its own parameters come from."""

    origins: dict[str, Origin]


def declare(module: object, **origins: Origin) -> None:
    """State the origin of parameters of `module`; tensor names are relative to the module's path."""
    known: dict[str, Origin] = getattr(module, "origins", {})
    object.__setattr__(module, "origins", {**known, **origins})


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter of one rank, as the compiled step takes it before packing."""

    name: str
    shape: tuple[int, ...]
    dtype: ParameterDType
    origin: Origin
