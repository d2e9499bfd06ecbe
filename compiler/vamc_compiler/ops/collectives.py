"""How ranks that run in one process (eager torch, for tests and verification) exchange tensors.

Compiled ranks never come here: their collectives are packed calls that the runtime registers. Eager ranks are
threads; `run_ranks` starts one per rank and gives each the group that `all_reduce` and `all_gather` then use.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


class LocalGroup:
    """A meeting point for `num_ranks` threads: every exchange waits until all have come."""

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        self._slots: list[torch.Tensor | None] = [None] * num_ranks
        self._barrier = threading.Barrier(num_ranks)

    def exchange(self, rank: int, x: torch.Tensor) -> list[torch.Tensor]:
        """Give this rank's tensor, get every rank's in rank order."""
        self._slots[rank] = x
        self._barrier.wait()
        tensors = [t for t in self._slots if t is not None]
        self._barrier.wait()  # nobody may overwrite a slot before all have read it
        return tensors

    def abort(self) -> None:
        """Release the other ranks when one has failed."""
        self._barrier.abort()


_current: contextvars.ContextVar[tuple[LocalGroup, int] | None] = contextvars.ContextVar("vamc_rank", default=None)


def exchange(x: torch.Tensor) -> list[torch.Tensor]:
    """Every rank's `x` in rank order; a rank that runs alone (no `run_ranks`) gets only its own."""
    current = _current.get()
    return [x] if current is None else current[0].exchange(current[1], x)


def run_ranks(functions: Sequence[Callable[[], T]]) -> list[T]:
    """Run one function per rank at the same time and return their results in rank order."""
    group = LocalGroup(len(functions))

    def run(rank: int) -> T:
        _current.set((group, rank))
        try:
            return functions[rank]()
        except BaseException:
            group.abort()
            raise

    with ThreadPoolExecutor(len(functions)) as pool:
        futures = [pool.submit(contextvars.copy_context().run, run, rank) for rank in range(len(functions))]
    errors = [e for e in (f.exception() for f in futures) if e is not None]
    # A rank that failed breaks the barrier of the others: raise the cause, not its echo.
    for error in sorted(errors, key=lambda e: isinstance(e, threading.BrokenBarrierError)):
        raise error
    return [f.result() for f in futures]
