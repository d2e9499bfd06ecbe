"""Writing every rank's weights: files laid out first, then tensors in any order, by several processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.process import BaseProcess, parent_process
from pathlib import Path
from typing import TypeVar

from vamc_compiler.packing import Packing
from vamc_compiler.parameters import FromCheckpoint, FromValue, ParameterSpec
from vamc_compiler.weights.checkpoint import Checkpoint
from vamc_compiler.weights.safetensors_file import FilePlan, create_file, plan_file
from vamc_compiler.weights.shards import Destination, TensorTask, write_tensor
from vamc_runtime.errors import UserError
from vamc_runtime.machine import available_memory_bytes
from vamc_runtime.ranks.lifeline import die_with_parent
from vamc_runtime.resources import address_space_bytes, find_lack, size
from vamc_runtime.spawning import spawn_context

SMALL_JOB_ELEMENTS = 64 << 20
"""Below this many elements, starting processes takes longer than the work."""
END_SECONDS = 5
"""How long workers may take to end once one of them did."""

Task = TypeVar("Task")
Result = TypeVar("Result")


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


def _tasks(files: Iterable[RankFile], checkpoint: Checkpoint) -> list[TensorTask]:
    """Every tensor to write, largest first so that no process ends with a long one alone."""
    tasks = [
        TensorTask(
            spec.name,
            checkpoint.tensors[spec.origin.tensor],
            spec.origin,
            Destination(
                file.path,
                file.plan.entries[spec.name].offset,
                spec.shape,
                spec.dtype,
                file.packings.get(spec.name),
            ),
        )
        for file in files
        for spec in file.parameters
        if isinstance(spec.origin, FromCheckpoint)
    ]
    return sorted(tasks, key=lambda task: -task.num_elements)


def _write_values(file: RankFile) -> None:
    """Write the parameters that the modeling file computed."""
    with file.path.open("r+b") as stream:
        for spec in file.parameters:
            if isinstance(spec.origin, FromValue):
                stream.seek(file.plan.entries[spec.name].offset)
                stream.write(spec.origin.value.astype(spec.dtype).tobytes())


def _begin_worker() -> None:
    """Ctrl-C reaches every process of the terminal: the parent alone decides what it means, and ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None and parent.pid is not None, "only multiprocessing starts workers"
    die_with_parent(parent.pid)


def run_tasks(
    function: Callable[[Task], Result], tasks: Sequence[Task], num_workers: int, on_done: Callable[[Result], None]
) -> None:
    """Run `function` on every task, in this process or in `num_workers` others.

    Raises:
        UserError: a worker was killed, most likely because memory ran out.
    """
    if num_workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            on_done(function(task))
        return
    pool = ProcessPoolExecutor(
        min(num_workers, len(tasks)),
        mp_context=spawn_context(),
        initializer=_begin_worker,
    )
    workers: list[BaseProcess] = []
    try:
        futures = []
        for task in tasks:  # a worker may be killed while others are still being started
            futures.append(pool.submit(function, task))
            workers = list(pool._processes.values())  # what broke them is known to them alone
        for future in as_completed(futures):
            on_done(future.result())
    except (BrokenProcessPool, BrokenPipeError) as error:  # broken pipe: while it was being started
        raise _explain_end(workers, error) from error
    except BaseException:
        for worker in workers:  # a signal, or the error of a task: nobody wants what the others still do
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _explain_end(workers: Sequence[BaseProcess], error: BrokenProcessPool | BrokenPipeError) -> Exception:
    """Of a worker that ended within its work: it was killed, or crashed. The pool ends the others with SIGTERM."""
    codes = _exit_codes(workers)
    if -signal.SIGKILL in codes or isinstance(error, BrokenPipeError):
        return UserError(
            f"a worker process was killed (SIGKILL); {size(available_memory_bytes())} of memory are free now",
            expected="enough memory: with too little, Linux kills the process that uses most",
            fix="set workspace.workers to a smaller number, or give the machine or container more memory",
        )
    ends = ", ".join(str(code) for code in codes if code not in (None, 0, -signal.SIGTERM))
    lack = find_lack([], address_space_bytes(os.getpid())) if ends else None  # a worker is about as large as this
    return lack or RuntimeError(f"a worker process ended unexpectedly (exit status {ends or 'unknown'}): {error}")


def _exit_codes(workers: Sequence[BaseProcess]) -> list[int | None]:
    """Of workers that end now; None for those that do not."""
    deadline = time.monotonic() + END_SECONDS
    for worker in workers:
        worker.join(max(0, deadline - time.monotonic()))
    # The pool's thread waits for them too: what it took from the system it may not have noted yet.
    while None in (codes := [worker.exitcode for worker in workers]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return codes


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

    run_tasks(write_tensor, tasks, num_workers if total > SMALL_JOB_ELEMENTS else 1, advance)
    for file in files:
        descriptor = os.open(file.path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
