"""One rank in a thread of its own, so that any thread may use it.

Compiled code keeps a pool of threads for each thread that calls it (apache-tvm 0.27), its memory belongs to one caller
at a time, and a forked process that inherits a pool hangs when the thread it belongs to ends. A thread that does
nothing else keeps all that away from the program's threads, and on its core.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from vamc_runtime.executor import RankExecutor, Ranks, StepArguments
from vamc_runtime.weights_memory import OnLoad

T = TypeVar("T")
RanksT = TypeVar("RanksT", bound=Ranks)


class _Stopped(Exception):  # noqa: N818  # never seen outside
    """Loading was given up."""


class _Call:
    """Work for the thread, and what came of it."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.work = work
        self._answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run(self, ranks: Any) -> None:
        """In the thread: do it."""
        try:
            self._answer.put((self.work(ranks), None))
        except BaseException as error:
            self._answer.put((None, error))

    def result(self) -> Any:
        """In the caller: wait; raises what the work raised."""
        value, error = self._answer.get()
        if error is not None:
            raise error
        return value

    def fail(self, error: BaseException) -> None:
        """In the thread: it will not be done."""
        self._answer.put((None, error))


class OwnThread(Generic[RanksT]):
    """Ranks (`executor.Ranks`) that are opened, driven and closed in a thread of their own. Use as a context manager.

    Args:
        open_ranks: opens them, given what to tell about loading.
        on_load: told how much of the weights is in memory.
        give_up: called where a signal ends the wait for the ranks to open; None waits for the thread to notice.
    """

    def __init__(
        self,
        open_ranks: Callable[[OnLoad], AbstractContextManager[RanksT]],
        on_load: OnLoad | None = None,
        *,
        give_up: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._give_up = give_up
        self._open_ranks = open_ranks
        self._on_load = on_load
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._is_stopping = False
        self._process = 0
        self._thread: threading.Thread

    def __enter__(self) -> OwnThread[RanksT]:
        self._process = os.getpid()
        opening = _Call(lambda ranks: None)
        self._thread = threading.Thread(target=self._work, args=(opening,), name="vamc-rank", daemon=True)
        self._thread.start()
        atexit.register(self._stop)  # a program may never leave the context; compiled code must not run at its exit
        try:
            opening.result()
        except BaseException as error:
            if self._give_up is not None and not isinstance(error, Exception):
                self._give_up(error)
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def step(self, arguments: StepArguments) -> npt.NDArray[np.float32]:
        """See `executor.Executor`."""
        logits: npt.NDArray[np.float32] = self.run(lambda ranks: ranks.step(arguments))
        return logits

    def on_every_rank(self, task: Callable[[RankExecutor], T]) -> list[T]:
        """See `executor.Ranks`."""
        results: list[T] = self.run(lambda ranks: ranks.on_every_rank(task))
        return results

    def run(self, work: Callable[[RanksT], T]) -> T:
        """Do something with the ranks in their thread."""
        call = _Call(work)
        self._calls.put(call)
        result: T = call.result()
        return result

    def _stop(self) -> None:
        """Wait for the work at hand, then close; a forked process has no such thread."""
        atexit.unregister(self._stop)
        if os.getpid() == self._process:
            self._is_stopping = True
            self._calls.put(None)
            self._thread.join()

    def _loading(self, done_bytes: int, total_bytes: int) -> None:
        if self._is_stopping:
            raise _Stopped
        if self._on_load is not None:
            self._on_load(done_bytes, total_bytes)

    def _work(self, opening: _Call) -> None:
        try:
            with self._open_ranks(self._loading) as ranks:
                opening.run(ranks)
                while (call := self._calls.get()) is not None:
                    call.run(ranks)
        except BaseException as error:
            opening.fail(error)
