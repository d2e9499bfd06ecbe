"""Worker processes that die within their work: the signal is named, none is left, and they end with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest

from vamc_compiler.weights.writer import run_tasks
from vamc_runtime.errors import UserError


def end_by(number: int) -> int:
    """Task 0 ends its process by itself; others go on."""
    if number:
        os.kill(os.getpid(), number)
    time.sleep(0.05)
    return os.getpid()


@pytest.mark.parametrize(
    ("number", "error", "found"),
    [
        (signal.SIGKILL, UserError, "a worker process was killed"),
        (signal.SIGSEGV, RuntimeError, r"ended unexpectedly \(exit status .*-11"),
    ],
)
def test_a_worker_that_dies(number: signal.Signals, error: type[Exception], found: str) -> None:
    with pytest.raises(error, match=found):
        run_tasks(end_by, [0, int(number), 0, 0], 2, lambda pid: None)
    assert not multiprocessing.active_children()


def lack_memory(number: int) -> int:
    """As numpy raises it where memory runs out."""
    raise MemoryError(f"Unable to allocate {number} GiB")


def test_a_lack_in_a_worker_arrives_as_such() -> None:
    with pytest.raises(MemoryError, match="Unable to allocate 7 GiB"):
        run_tasks(lack_memory, [7, 7], 2, lambda pid: None)
