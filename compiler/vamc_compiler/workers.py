"""Work that several processes share: each task goes to the next one that is free.

No torch here: what a worker imports is what its tasks need.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess, parent_process
from typing import TypeVar

from vamc_runtime.errors import UserError
from vamc_runtime.machine import available_memory_bytes
from vamc_runtime.ranks.lifeline import die_with_parent
from vamc_runtime.resources import address_space_bytes, find_lack, size
from vamc_runtime.spawning import spawn_context

END_SECONDS = 5
"""How long workers may take to end once one of them did."""

Task = TypeVar("Task")
Result = TypeVar("Result")


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
