"""Proof that the ranks' weight files hold the checkpoint's weights: every number of every rank, compared.

First, the compiler's view of the checkpoint is held against what torch.load and safetensors read from its files
(`published_weights.py`). Plain weights must be the checkpoint's, rounded to the type they are stored in; int8 weights
and their scales those of the full rows; what packing fills up must be zeros; together the ranks must hold every tensor
whole. Files are read by blocks of rows, so that memory is bounded whatever the size of a tensor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vamc_compiler.parameters import FromValue, Origin, ParameterSpec
from vamc_compiler.verify.expected_weights import ExpectedRows, expected_rows, row_blocks
from vamc_compiler.verify.published_weights import Misread, find_misread
from vamc_compiler.verify.stored_weights import Misfit, RankWeights, StoredParameter, matrix_shape
from vamc_compiler.verify.weight_differences import Difference, block_differences
from vamc_compiler.verify.weight_hints import WeightFiles, explain
from vamc_compiler.weights.checkpoint import Checkpoint
from vamc_compiler.weights.fit import check_tensors
from vamc_runtime.machine import available_cores

ALL_RANKS = -1
NOWHERE = -1
MOST_THREADS = 8
"""Parameters that are compared at the same time: beyond that, memory is what they wait for."""


@dataclass(frozen=True, kw_only=True)
class WeightProblem:
    """A parameter that is not what it must be; rows and columns are those of the rank's parameter, not packed."""

    tensor: str
    """Name in the checkpoint; empty for values that the modeling file computes."""
    parameter: str
    """Name in the rank's file; that in the checkpoint for the kind checkpoint."""
    rank: int
    """ALL_RANKS where no single one is to blame."""
    kind: str
    """missing, type, shape: there is nothing to compare. values, scales, constant: numbers that are wrong. padding:
    something else than zeros beside the numbers. sums: those that are stored beside int8 weights. coverage: a part of
    the tensor that no rank holds. checkpoint: its library reads the checkpoint otherwise than the compiler."""
    first_row: int
    """Of the first difference; NOWHERE where there is none."""
    first_column: int
    num_different: int
    """Numbers that differ."""
    expected: float
    """The first number that differs, as it should be; NaN where there is none."""
    found: float
    hint: str
    """What it looks like, in words; may be empty."""

    def __str__(self) -> str:
        where = self.parameter if self.rank == ALL_RANKS else f"{self.parameter} of rank {self.rank}"
        if self.first_row == NOWHERE:
            return f"{where}: {self.kind}: {self.hint}"
        count = "1 number differs" if self.num_different == 1 else f"{self.num_different} numbers differ"
        first = f"row {self.first_row}, column {self.first_column} holds {self.found:.7g}, not {self.expected:.7g}"
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}: {self.kind}: {count}{hint}; {first}"


@dataclass(frozen=True, kw_only=True)
class WeightsCheck:
    """What a comparison of all weights found."""

    num_parameters: int
    """Parameters of a rank."""
    num_ranks: int
    num_elements: int
    """Numbers compared, over all ranks, padding not counted."""
    problems: tuple[WeightProblem, ...]

    @property
    def passed(self) -> bool:
        """Whether every rank holds what it must."""
        return not self.problems


def check_weights(
    runstream: Path,
    ranks: Sequence[Sequence[ParameterSpec]],
    checkpoint: Checkpoint,
    on_progress: Callable[[int, int], None],
) -> WeightsCheck:
    """Compare the weights of all ranks with the checkpoint.

    Args:
        runstream: the directory that holds rank_<r>/params.safetensors.
        ranks: the parameters of each rank, from the modeling file.
        checkpoint: the one that the runstream was compiled from.
        on_progress: called with numbers compared and numbers in all.

    Raises:
        UserError: a file cannot be read, or the checkpoint is not one of this model.
    """
    check_tensors(checkpoint, (spec for specs in ranks for spec in specs))
    files = WeightFiles(
        ranks=[{spec.name: spec for spec in specs} for specs in ranks],
        files=[RankWeights(runstream, rank) for rank in range(len(ranks))],
        tensors=checkpoint.tensors,
    )
    every = [(rank, spec) for rank, specs in enumerate(ranks) for spec in specs]
    total = sum(_num_elements(spec) for _, spec in every)
    done, lock = 0, threading.Lock()

    def advance(num_elements: int) -> None:
        nonlocal done
        with lock:
            done += num_elements
            on_progress(done, total)

    names = {name for specs in ranks for spec in specs for name in spec.tensors}
    problems = [_misread_problem(misread) for misread in find_misread(checkpoint, names)]
    problems += _find_gaps(ranks)
    # numpy and torch let other threads run while they compute; a thread holds a few blocks of one parameter.
    with ThreadPoolExecutor(min(MOST_THREADS, len(available_cores()))) as pool:
        for found in pool.map(lambda item: _check_parameter(files, item[0], item[1], advance), every):
            problems += found
    num_parameters = len(ranks[0]) if ranks else 0
    return WeightsCheck(
        num_parameters=num_parameters, num_ranks=len(ranks), num_elements=total, problems=tuple(problems)
    )


def _num_elements(spec: ParameterSpec) -> int:
    rows, columns = matrix_shape(spec.shape)
    return rows * columns


def _tensor_name(spec: ParameterSpec) -> str:
    return ", ".join(spec.tensors)


def _check_parameter(
    files: WeightFiles, rank: int, spec: ParameterSpec, advance: Callable[[int], None]
) -> list[WeightProblem]:
    """The problems of one parameter of one rank, at most one of a kind."""
    stored, expected = files.files[rank].find(spec), expected_rows(spec, files.tensors)
    if not isinstance(stored, Misfit) and expected.shape != matrix_shape(spec.shape):
        stored = Misfit("shape", f"{list(spec.shape)}, but its origin gives {list(expected.shape)}")
    if isinstance(stored, Misfit):
        advance(_num_elements(spec))
        return [_whole_problem(spec, rank, stored.kind, stored.hint)]
    return [
        WeightProblem(
            tensor=_tensor_name(spec),
            parameter=spec.name,
            rank=rank,
            kind=difference.kind,
            first_row=difference.first_row,
            first_column=difference.first_column,
            num_different=difference.count,
            expected=difference.expected,
            found=difference.found,
            hint=explain(files, rank, spec, stored, expected, difference),
        )
        for difference in _compare(stored, expected, _kind(spec), advance)
    ]


def _whole_problem(spec: ParameterSpec, rank: int, kind: str, hint: str, count: int | None = None) -> WeightProblem:
    """A problem without a first number."""
    return WeightProblem(
        tensor=_tensor_name(spec),
        parameter=spec.name,
        rank=rank,
        kind=kind,
        first_row=NOWHERE,
        first_column=NOWHERE,
        num_different=_num_elements(spec) if count is None else count,
        expected=float("nan"),
        found=float("nan"),
        hint=hint,
    )


def _misread_problem(misread: Misread) -> WeightProblem:
    """A tensor that the compiler reads otherwise than its library."""
    return WeightProblem(
        tensor=misread.tensor,
        parameter=misread.tensor or "every tensor",
        rank=ALL_RANKS,
        kind="checkpoint",
        first_row=NOWHERE,
        first_column=NOWHERE,
        num_different=0,
        expected=float("nan"),
        found=float("nan"),
        hint=misread.hint,
    )


def _kind(spec: ParameterSpec) -> str:
    """What a wrong number of the parameter is called."""
    if isinstance(spec.origin, FromValue):
        return "constant"
    return "scales" if spec.origin.is_per_row else "values"


def _compare(
    stored: StoredParameter, expected: ExpectedRows, kind: str, advance: Callable[[int], None]
) -> list[Difference]:
    """The differences of a parameter, joined over its blocks."""
    joined: dict[str, Difference] = {}
    num_columns = expected.shape[1]
    for begin, end in row_blocks(expected):
        for found in block_differences(stored.block(begin, end), expected.block(begin, end), stored.dtype, kind, begin):
            joined[found.kind] = joined[found.kind].joined(found) if found.kind in joined else found
        advance((end - begin) * num_columns)
    return list(joined.values())


def _find_gaps(ranks: Sequence[Sequence[ParameterSpec]]) -> Iterator[WeightProblem]:
    """Parts of a tensor that no rank holds: shards that are right each by themselves may still leave some out."""
    by_name: dict[str, list[ParameterSpec]] = {}
    for specs in ranks:
        for spec in specs:
            by_name.setdefault(spec.name, []).append(spec)
    for specs in by_name.values():
        shards = [spec.origin.shard for spec in specs if isinstance(spec.origin, Origin)]
        parts = [shard for shard in shards if shard is not None and shard.is_part]
        if not parts or len(parts) < len(ranks) or (_kind(specs[0]) == "scales" and parts[0].dim != 0):
            continue  # some rank holds it whole, or it has a number for every row
        held = np.zeros(parts[0].full, np.bool_)
        for piece in (piece for shard in parts for piece in shard.pieces):
            if piece.start is not None:
                held[piece.start : piece.start + piece.length] = True
        (missing,) = np.nonzero(~held)
        if len(missing):
            what = "columns" if parts[0].dim else "rows"
            hint = f"{what} {_runs(missing)} of {_tensor_name(specs[0])} are on no rank"
            yield _whole_problem(specs[0], ALL_RANKS, "coverage", hint, len(missing))


def _runs(indices: npt.NDArray[np.int64]) -> str:
    """Indices in words: 0..15, 24..31; the first four runs."""
    runs = np.split(indices, np.nonzero(np.diff(indices) != 1)[0] + 1)
    shown = ", ".join(f"{run[0]}..{run[-1]}" for run in runs[:4])
    return shown + (" and others" if len(runs) > 4 else "")
