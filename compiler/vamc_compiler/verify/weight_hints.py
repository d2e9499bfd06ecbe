"""What a wrong parameter looks like, in words: another rank's part, the scales of the neighbours, swapped panels.

Each hint is an assumption that explains every number of the parameter, tried only where something is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vamc_compiler.parameters import FromValue, Origin, ParameterSpec
from vamc_compiler.transforms import AS_STORED, UNIT_ROWS, Int8Rows
from vamc_compiler.verify.expected_weights import CheckpointRows, ExpectedRows, expected_rows, row_blocks
from vamc_compiler.verify.stored_weights import Misfit, RankWeights, StoredParameter
from vamc_compiler.verify.unpacking import PANEL_OUTPUTS, Array
from vamc_compiler.verify.weight_differences import Difference
from vamc_compiler.weights.stored_tensor import StoredTensor

NUMBERS = ("values", "scales", "constant")
"""Kinds of differences in the numbers of the parameter itself."""


@dataclass(frozen=True)
class WeightFiles:
    """All that a comparison reads."""

    ranks: Sequence[Mapping[str, ParameterSpec]]
    """Parameters of each rank, by name."""
    files: Sequence[RankWeights]
    """File of each rank."""
    tensors: Mapping[str, StoredTensor]
    """The checkpoint's."""


def explain(
    files: WeightFiles,
    rank: int,
    spec: ParameterSpec,
    stored: StoredParameter,
    expected: ExpectedRows,
    difference: Difference,
) -> str:
    """The first explanation that fits; where none does, which panels differ, empty for what has no panels."""
    if difference.kind in NUMBERS:
        for hint, other in (*_other_ranks(files, rank, spec), *_other_transforms(expected)):
            if _holds(stored, other):
                return hint
        for other_rank in _twins(files, rank, spec, stored):
            return f"the same content as rank {other_rank}'s"
        if expected.shape[1] == 1:
            return _neighbours(stored, expected, difference.kind)
    return "" if stored.layout is None else _panels(stored, expected, difference)


def _differing_ranks(files: WeightFiles, rank: int, spec: ParameterSpec) -> Iterator[tuple[int, ParameterSpec]]:
    """The ranks whose parameter of this name must differ, with what it is there."""
    for other_rank, specs in enumerate(files.ranks):
        other = specs.get(spec.name)
        if other_rank == rank or other is None or other.shape != spec.shape or other.dtype != spec.dtype:
            continue
        if not _same_origin(spec.origin, other.origin):
            yield other_rank, other


def _same_origin(one: Origin | FromValue, other: Origin | FromValue) -> bool:
    if isinstance(one, FromValue) or isinstance(other, FromValue):
        return isinstance(one, FromValue) and isinstance(other, FromValue) and np.array_equal(one.value, other.value)
    return one == other


def _other_ranks(files: WeightFiles, rank: int, spec: ParameterSpec) -> Iterator[tuple[str, ExpectedRows]]:
    what = "part" if isinstance(spec.origin, Origin) else "values"
    for other_rank, other in _differing_ranks(files, rank, spec):
        yield f"rank {other_rank}'s {what}", expected_rows(other, files.tensors)


def _other_transforms(expected: ExpectedRows) -> Iterator[tuple[str, ExpectedRows]]:
    """Mistakes in what is done to rows before they are stored."""
    if not isinstance(expected, CheckpointRows) or expected.origin.transform == AS_STORED:
        return
    origin, transform = expected.origin, expected.origin.transform
    if transform == UNIT_ROWS:
        yield "rows that are not normalised", replace(expected, origin=replace(origin, transform=AS_STORED))
    if transform == Int8Rows(UNIT_ROWS):
        yield "rows that are not normalised", replace(expected, origin=replace(origin, transform=Int8Rows()))
    if origin.shard is not None and origin.shard.dim == 1 and origin.shard.is_part:
        done = "normalised" if transform == UNIT_ROWS else "scaled"
        yield f"{done} by the rank's columns instead of the full rows", replace(expected, split_first=True)


def _holds(stored: StoredParameter, expected: ExpectedRows) -> bool:
    """Whether the file has exactly these numbers."""
    return not any(
        expected.block(begin, end).differs_from(stored.block(begin, end).bits).any()
        for begin, end in row_blocks(expected)
    )


def _twins(files: WeightFiles, rank: int, spec: ParameterSpec, stored: StoredParameter) -> Iterator[int]:
    """The ranks that hold the same numbers and must not."""
    for other_rank, other in _differing_ranks(files, rank, spec):
        twin = files.files[other_rank].find(other)
        rows = expected_rows(other, files.tensors)
        if not isinstance(twin, Misfit) and all(
            np.array_equal(stored.block(begin, end).bits, twin.block(begin, end).bits)
            for begin, end in row_blocks(rows)
        ):
            yield other_rank


def _neighbours(stored: StoredParameter, expected: ExpectedRows, kind: str) -> str:
    """Whether a vector's wrong numbers are those of the entries beside them."""
    blocks = list(row_blocks(expected))
    wanted = np.concatenate([expected.block(begin, end).bits for begin, end in blocks])[:, 0]
    found = np.concatenate([stored.block(begin, end).bits for begin, end in blocks])[:, 0]
    differs = np.concatenate([expected.block(b, e).differs_from(stored.block(b, e).bits) for b, e in blocks])[:, 0]
    what = "scales of the neighbouring channel" if kind == "scales" else "values of the neighbouring entry"
    for shift, which in ((1, "before"), (-1, "after")):
        if np.array_equal(np.roll(wanted, shift)[differs], found[differs]):
            return f"{what} (the one {which})"
    return ""


def _panels(stored: StoredParameter, expected: ExpectedRows, difference: Difference) -> str:
    """Which panels differ, and whether two of them changed places."""
    panels = sorted(difference.panels)
    num_rows = expected.shape[0]
    total = -(-num_rows // PANEL_OUTPUTS)

    def outputs(panel: int) -> str:
        return f"{panel * PANEL_OUTPUTS}..{min((panel + 1) * PANEL_OUTPUTS, num_rows) - 1}"

    if len(panels) == 1:
        return f"panel {panels[0]} differs: outputs {outputs(panels[0])}"
    if len(panels) == 2:
        wanted = [_panel(expected, panel) for panel in panels]
        found = [_panel(stored, panel) for panel in panels]
        swapped = np.array_equal(wanted[0], found[1]) and np.array_equal(wanted[1], found[0])
        verb = "are swapped" if swapped and difference.kind in NUMBERS else "differ"
        return f"panels {panels[0]} and {panels[1]} {verb}: outputs {outputs(panels[0])} and {outputs(panels[1])}"
    return f"{len(panels)} of {total} panels differ, from panel {panels[0]} (outputs {outputs(panels[0])}) on"


def _panel(side: StoredParameter | ExpectedRows, panel: int) -> Array:
    num_rows = side.shape[0]
    begin = panel * PANEL_OUTPUTS
    return side.block(begin, min(begin + PANEL_OUTPUTS, num_rows)).bits
