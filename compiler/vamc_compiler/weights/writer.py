"""Writing every rank's weights: files laid out first, then tensors in any order, by several processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vamc_compiler.packing import Packing
from vamc_compiler.parameters import FromValue, ParameterSpec
from vamc_compiler.weights.checkpoint import Checkpoint
from vamc_compiler.weights.safetensors_file import FilePlan, create_file, plan_file
from vamc_compiler.weights.shards import PlacedParameter, TransformTask, plan_tasks, write_tensors
from vamc_compiler.workers import run_tasks

SMALL_JOB_ELEMENTS = 64 << 20
"""Below this many elements, starting processes takes longer than the work."""


@dataclass(frozen=True)
class RankFile:
    """A rank's weight file: its layout, and how each parameter is packed in it."""

    path: Path
    plan: FilePlan
    parameters: tuple[ParameterSpec, ...]
    packings: Mapping[str, Packing]


def plan_rank_file(
    path: Path,
    parameters: Sequence[ParameterSpec],
    packings: Mapping[str, Packing],
    metadata: Mapping[str, str],
) -> RankFile:
    """Lay out one rank's parameters, packed where a kernel wants it; touches no file."""
    stored = [
        (spec.name, packings[spec.name].packed_shape(spec.shape) if spec.name in packings else spec.shape, spec.dtype)
        for spec in parameters
    ]
    return RankFile(path, plan_file(stored, metadata), tuple(parameters), packings)


def _tasks(files: Iterable[RankFile], checkpoint: Checkpoint) -> list[TransformTask]:
    """Everything to write, largest first so that no process ends with a long task alone."""
    placed = (
        PlacedParameter(spec, file.path, file.plan.entries[spec.name].offset, file.packings.get(spec.name))
        for file in files
        for spec in file.parameters
    )
    return sorted(plan_tasks(placed, checkpoint.tensors), key=lambda task: -task.num_elements)


def _write_values(file: RankFile) -> None:
    """Write the parameters that the modeling file computed."""
    with file.path.open("r+b") as stream:
        for spec in file.parameters:
            if isinstance(spec.origin, FromValue):
                stream.seek(file.plan.entries[spec.name].offset)
                stream.write(spec.origin.value.astype(spec.dtype).tobytes())


def write_rank_files(
    files: Sequence[RankFile],
    checkpoint: Checkpoint,
    *,
    num_workers: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Write the weights of all ranks.

    Args:
        files: one per rank, from `plan_rank_file`.
        checkpoint: where tensors are read from; checked against the parameters before.
        num_workers: processes; small jobs stay in this one.
        on_progress: called with elements done and elements in all.

    Raises:
        UserError: a tensor cannot be stored in the chosen precision.
        OSError: the disk is full or a file cannot be read.
    """
    for file in files:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        create_file(file.path, file.plan)
        _write_values(file)
    tasks = _tasks(files, checkpoint)
    total = sum(task.num_elements for task in tasks)
    done = 0

    def advance(num_elements: int) -> None:
        nonlocal done
        done += num_elements
        on_progress(done, total)

    run_tasks(write_tensors, tasks, num_workers if total > SMALL_JOB_ELEMENTS else 1, advance)
    for file in files:
        descriptor = os.open(file.path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
