"""Runs written by hand: a plan of two layers, streams to which each block adds a known amount, logits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vamc_compiler.sharding import Piece
from vamc_compiler.verify.instrument import WeightReader
from vamc_compiler.verify.run import Array, Run, TapValue
from vamc_compiler.verify.steps import even_chunks
from vamc_compiler.verify.taps import LOGITS, Block, Columns, Tap, TapPlan
from vamc_runtime.executor import StepArguments

HALVES: Columns = ((Piece(0, 2),), (Piece(2, 2),))
WIDTH, VOCAB = 4, 50
STREAMS = ("norm0.in", "norm1.in", "norm2.in")


def make_plan() -> TapPlan:
    """Embedding, two blocks with one inner value each (split over two ranks) and its sum, and the head."""
    taps = {}

    def add(name: str, op: str, block: int, *, stream: bool = False, columns: Columns | None = None) -> None:
        taps[name] = Tap(name=name, op=op, block=block, stream=stream, value=f"value {name}", columns=columns)

    add("norm0.in", "residual stream", 0, stream=True)
    for layer in range(2):
        add(f"block{layer}.inner.out", f"Linear inner{layer}", layer + 1, columns=HALVES)
        add(f"block{layer}.outer.out", f"Linear outer{layer}", layer + 1)
        add(f"norm{layer + 1}.in", "residual stream", layer + 1, stream=True)
    add("norm2.out", "AddRMSNorm norm2", 3)
    ends = [*STREAMS, LOGITS]
    names = ["embedding", "layer 0", "layer 1", "head"]
    blocks = tuple(
        Block(index=i, name=name, begin=ends[i - 1] if i else "", end=ends[i]) for i, name in enumerate(names)
    )
    readers = {
        f"{path}.weight": WeightReader(kind="linear", path=path, width=WIDTH, summed=path != "lm_head")
        for path in ("block0.outer", "block1.outer", "lm_head")
    }
    return TapPlan(taps=taps, blocks=blocks, attention={}, logit_columns=None, readers=readers)


PLAN = make_plan()


def inner(stream: Array, layer: int) -> Array:
    return np.asarray(np.roll(stream, layer + 1, axis=1) * 0.5, np.float32)


def outer(values: Array) -> Array:
    return np.asarray(values[:, ::-1] * 2, np.float32)


HEAD = np.random.default_rng(5).standard_normal((WIDTH, VOCAB)).astype(np.float32)
Change = Callable[[Array], Array]


@dataclass(eq=False)
class MadeUpStage:
    """Computes the plan's model; `changes` break values as they are made. A stage as the comparison takes it."""

    name: str = "made up"
    changes: Mapping[str, Change] = field(default_factory=dict)
    """From a tap or `logits` to what is done with the value."""
    calls: list[bool] = field(default_factory=list)
    """For every run, whether it was fed something."""

    def run(
        self, steps: Sequence[StepArguments], taps: Collection[str] = (), forced: Mapping[str, Array] | None = None
    ) -> Run:
        self.calls.append(forced is not None)
        ids = np.concatenate([step.input_ids for step in steps])
        forced = forced or {}
        made: dict[str, TapValue] = {}

        def value(name: str, array: Array) -> Array:
            change = self.changes.get(name)
            changed = np.asarray(array if change is None else change(array.copy()), np.float32)
            columns = None if name == LOGITS else PLAN.taps[name].columns
            parts = (changed,) if columns is None else (changed[:, :2], changed[:, 2:])
            made[name] = TapValue(parts, columns)
            return forced.get(name, changed)

        stream = value("norm0.in", embedding(ids))
        for layer in range(2):
            added = value(f"block{layer}.outer.out", outer(value(f"block{layer}.inner.out", inner(stream, layer))))
            stream = value(f"norm{layer + 1}.in", stream + added)
        logits = value(LOGITS, value("norm2.out", stream) @ HEAD)
        return Run(logits, {name: made[name] for name in taps if name in made})


def embedding(ids: Array) -> Array:
    rows = np.random.default_rng(9).standard_normal((50, WIDTH)).astype(np.float32)
    return np.asarray(rows[ids])


def whole(length: int) -> list[int]:
    return even_chunks(length, 64)


def scaled(factor: float) -> Change:
    return lambda array: array * np.float32(factor)


def scaled_columns(columns: slice, factor: float) -> Change:
    """Only some columns: a rank's."""

    def change(array: Array) -> Array:
        array[:, columns] *= factor
        return array

    return change
