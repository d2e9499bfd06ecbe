"""What a stage gives back: logits and tapped values of one sequence, and how stages of other degrees read them.

Dimension letters: t tokens, w columns of a tap, v vocabulary, r ranks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vamc_compiler.sharding import Piece
from vamc_compiler.verify.taps import Columns
from vamc_runtime.executor import StepArguments

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TapValue:
    """A tapped value on every rank."""

    parts: tuple[Array, ...]
    """float32 [t, w of the rank], one for each rank; a single one where all ranks hold the same."""
    columns: Columns | None = None
    """Which of the whole's columns each part is; None where every part is the whole."""

    def whole(self) -> Array:
        """float32 [t, w], put together from the parts; padding is left out."""
        if self.columns is None:
            return self.parts[0]
        width = max(
            piece.start + piece.length for pieces in self.columns for piece in pieces if piece.start is not None
        )
        result = np.full((len(self.parts[0]), width), np.nan, np.float32)
        for part, pieces in zip(self.parts, self.columns, strict=True):
            for local, piece in _places(pieces):
                result[:, piece.start : piece.start + piece.length] = part[:, local : local + piece.length]
        return result


def _places(pieces: Sequence[Piece]) -> list[tuple[int, Any]]:
    """Every true piece with its first column in the rank's part."""
    places, position = [], 0
    for piece in pieces:
        if piece.start is not None:
            places.append((position, piece))
        position += piece.length
    return places


def true_columns(part: Array, pieces: Sequence[Piece]) -> Array:
    """A rank's part without its padding."""
    cut = [part[:, local : local + piece.length] for local, piece in _places(pieces)]
    return np.concatenate([part[:, :0], *cut], axis=1)


def taken_columns(whole: Array, pieces: Sequence[Piece]) -> Array:
    """The columns of the whole that a rank should hold, without padding."""
    cut = [whole[:, piece.start : piece.start + piece.length] for piece in pieces if piece.start is not None]
    return np.concatenate([whole[:, :0], *cut], axis=1)


@dataclass
class Run:
    """One sequence through one stage."""

    logits: Array
    """float32 [t, v]."""
    taps: dict[str, TapValue] = field(default_factory=dict)
    """The taps that were asked for and that the stage has."""
    logit_columns: Columns | None = None
    """Which logits each rank's head computed; None where all computed all."""


class Stage(Protocol):
    """One form of the model that can be run: the original, a modeling file, a graph, compiled code.

    Opening a stage is the constructor's business or that of a context manager; see each.
    """

    name: str
    """For people and reports."""

    def run(
        self, steps: Sequence[StepArguments], taps: Collection[str] = (), forced: Mapping[str, Array] | None = None
    ) -> Run:
        """Compute one sequence.

        Args:
            steps: from `plan_steps`: whole, in chunks, or token by token.
            taps: names of values to give back.
            forced: values float32 [t, w] of stream taps that replace what was computed: each block is then fed what
                another stage fed it, so that its own error shows. The tap still gives what had been computed.
        """


class TapCollector:
    """Puts the rows of several steps together."""

    def __init__(self) -> None:
        self._rows: dict[str, list[Array]] = {}

    def add(self, name: str, rows: Array) -> None:
        """Rows [t, w] of the next step."""
        self._rows.setdefault(name, []).append(np.array(rows, np.float32).reshape(len(rows), -1))

    def joined(self) -> dict[str, Array]:
        """Every tap over all steps."""
        return {name: np.concatenate(rows) if len(rows) > 1 else rows[0] for name, rows in self._rows.items()}


def step_rows(array: Array, step: StepArguments) -> Array:
    """The rows of a whole sequence's array that belong to a step."""
    first = int(step.position_ids[0])
    return array[first : first + len(step.position_ids)]
