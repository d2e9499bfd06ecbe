"""Ranks over MPI: collectives for the compiled step, and rank 0 telling the others what to compute."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from vamc_runtime.errors import EXIT_INTERRUPTED, UserError
from vamc_runtime.executor import RankExecutor, StepArguments
from vamc_runtime.machine import available_cores, one_per_core
from vamc_runtime.ranks import lifeline, shared_memory
from vamc_runtime.ranks.place import choose_cores

T = TypeVar("T")
Task = Callable[[RankExecutor], Any]
"""See `executor.Ranks.on_every_rank`."""
Collective = Callable[["MpiGroup", Any, Any], None]
_WORK_TAG = 1
SPIN_SECONDS = 0.02
"""How long a waiting rank polls before it sleeps between looks: longer than a decode step, short for an idle server."""
SLEEP_SECONDS = 0.0005


class RankFailedError(RuntimeError):
    """A rank failed, and every rank knows."""


def missing_mpi(detail: str) -> UserError:
    """The error for a machine without MPI."""
    return UserError(
        f"this runstream has several ranks, and MPI is not installed ({detail})",
        expected="mpi4py and an MPI library with mpiexec",
        fix='pip install "vamc[mpi]", or use the MPI of your cluster with mpi4py',
    )


def is_started() -> bool:
    """Whether MPI was initialised in this process."""
    module = sys.modules.get("mpi4py.MPI")
    return module is not None and bool(module.Is_initialized())


def _start_mpi() -> Any:
    """mpi4py's MPI, initialised.

    mpi4py holds Python's lock while it initialises and finalises MPI, which waits for other ranks there: no thread
    could notice that they are gone (`lifeline`). Hence both are called through ctypes, which lets go of it.
    """
    import mpi4py

    if "mpi4py.MPI" not in sys.modules:
        mpi4py.rc.initialize = mpi4py.rc.finalize = False
    from mpi4py import MPI

    if not MPI.Is_initialized():
        os.environ.setdefault("MPIR_CVAR_SUPPRESS_ABORT_MESSAGE", "1")  # `abort` says what there is to say
        library = ctypes.CDLL(MPI.__file__)
        with lifeline.signals_end_it():
            library.MPI_Init_thread(None, None, MPI.THREAD_MULTIPLE, ctypes.byref(ctypes.c_int()))
        atexit.register(library.MPI_Finalize)
    return MPI


def _remembering(collective: Collective) -> Collective:
    """Note what a collective raises, a signal say: out of compiled code it comes as an error of another type."""

    @functools.wraps(collective)
    def call(group: MpiGroup, x: Any, out: Any) -> None:
        try:
            collective(group, x, out)
        except BaseException as error:
            group.raised = error
            raise

    return call


class MpiGroup:
    """All ranks of one runstream.

    Raises:
        UserError: mpi4py or an MPI library is not installed.
    """

    def __init__(self) -> None:
        try:
            MPI = _start_mpi()  # noqa: N806  # its name everywhere
        except (ImportError, RuntimeError) as error:
            raise missing_mpi(str(error)) from error
        self._comm: Any = MPI.COMM_WORLD
        self._max: Any = MPI.MAX
        self.raised: BaseException | None = None
        """By a collective within a step."""
        self.rank: int = self._comm.Get_rank()
        self.num_ranks: int = self._comm.Get_size()
        local = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank: int = local.Get_rank()
        """This rank among those of its host."""
        self._cores = one_per_core(available_cores())
        # Launchers may give each rank cores of its own; only ranks that were given the same ones share them.
        same = [cores == self._cores for cores in local.allgather(self._cores)]
        self._share, self._num_shares = sum(same[: self.local_rank]), sum(same)
        if self.local_rank == 0:
            shared_memory.unlink_names()  # the collectives above: every rank of this host has come through MPI_Init
        local.Free()

    def choose_cores(self, num_threads: int | None) -> tuple[int, ...]:
        """This rank's cores; see `place.choose_cores`."""
        return choose_cores(num_threads, self._cores, self._share, self._num_shares)

    @_remembering
    def all_reduce(self, x: Any, out: Any) -> None:
        """Sum over ranks; called by the compiled step."""
        self._comm.Allreduce(np.from_dlpack(x), np.from_dlpack(out))

    @_remembering
    def all_reduce_max(self, x: Any, out: Any) -> None:
        """Largest over ranks; called by the compiled step."""
        self._comm.Allreduce(np.from_dlpack(x), np.from_dlpack(out), self._max)

    @_remembering
    def all_gather(self, x: Any, out: Any) -> None:
        """Concatenate the last dimension over ranks; called by the compiled step."""
        part, whole = np.from_dlpack(x), np.from_dlpack(out)
        parts = np.empty((self.num_ranks, *part.shape), part.dtype)
        self._comm.Allgather(part, parts)
        whole.reshape(part.shape[0], self.num_ranks, -1)[...] = parts.transpose(1, 0, 2)

    def agree(self, action: Callable[[], None]) -> None:
        """Do something that may fail on every rank; all ranks raise when one fails, so that none waits for ever.

        Raises:
            UserError: the first failing rank's error, with the rank named.
            RankFailedError: an error of another kind on a rank; on every rank, as the other one.
        """
        error: Exception | None = None
        try:
            action()
        except Exception as caught:
            error = caught
            if not isinstance(caught, UserError):
                traceback.print_exception(caught)
        except BaseException as caught:  # a signal, which the other ranks know nothing of
            self.abort(caught)
            raise
        errors = self._comm.allgather(error)
        for rank, failed in enumerate(errors):
            if isinstance(failed, UserError):
                raise UserError(f"rank {rank}: {failed.found}", expected=failed.expected, fix=failed.fix)
            if failed is not None:
                raise RankFailedError(f"rank {rank} failed: {type(failed).__name__}: {failed}") from failed

    def from_first_rank(self, value: T) -> T:
        """What rank 0 has for a value, on every rank."""
        first: T = self._comm.bcast(value)
        return first

    def send_work(self, work: StepArguments | Task | None) -> None:
        """Rank 0: tell the others what to do; None ends them."""
        for rank in range(1, self.num_ranks):
            self._comm.send(tuple(work) if isinstance(work, StepArguments) else work, rank, _WORK_TAG)

    def receive_work(self) -> StepArguments | Task | None:
        """Other ranks: wait for the next step or task."""
        deadline = time.monotonic() + SPIN_SECONDS
        while not self._comm.iprobe(0, _WORK_TAG):
            if time.monotonic() > deadline:
                time.sleep(SLEEP_SECONDS)
        received = self._comm.recv(source=0, tag=_WORK_TAG)
        return StepArguments(*received) if isinstance(received, tuple) else received

    def run_together(self, task: Task, local: RankExecutor) -> list[Any]:
        """Do a task on every rank, begun at the same time; results, or the user's mistakes, in the order of ranks."""
        self._comm.Barrier()
        try:
            result = task(local)
        except UserError as error:
            result = error
        results: list[Any] = self._comm.allgather(result)
        return results

    def abort(self, error: BaseException) -> NoReturn:
        """End every rank at once, because this one can no longer take part.

        Args:
            error: why; only a fault is shown, not that somebody asked for the end.
        """
        error = self.raised or error
        status = 1
        if isinstance(error, KeyboardInterrupt):
            status = EXIT_INTERRUPTED
        elif isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) and error.code else 1
        else:
            traceback.print_exception(error)
        self._comm.Abort(status)
        os._exit(status)  # MPICH's returns where another rank was quicker


class MpiExecutor:
    """Rank 0's executor (`executor.Ranks`): every step is sent to the other ranks and computed by all."""

    def __init__(self, group: MpiGroup, local: RankExecutor) -> None:
        self._group = group
        self.local = local
        self._in_step = False
        self._error: BaseException | None = None

    def step(self, arguments: StepArguments) -> npt.NDArray[np.float32]:
        """See `executor.Executor`."""
        with self._together():
            self._group.send_work(arguments)
            return self.local.step(arguments)

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """Remember what left the other ranks inside a collective."""
        self._in_step = True
        try:
            yield
        except BaseException as error:
            self._error = error
            raise
        self._in_step = False

    def on_every_rank(self, task: Callable[[RankExecutor], T]) -> list[T]:
        """See `executor.Ranks`."""
        with self._together():
            self._group.send_work(task)
            results = self._group.run_together(task, self.local)
        for result in results:
            if isinstance(result, UserError):
                raise result
        return results

    def end(self) -> None:
        """End the other ranks; at once when a step failed here, since they then wait inside a collective for ever."""
        if self._in_step:
            self._group.abort(self._error or RuntimeError("a step was left unfinished"))
        self._group.send_work(None)


def serve_steps(group: MpiGroup, local: RankExecutor) -> None:
    """Ranks other than 0: compute what rank 0 sends until it ends."""
    try:
        while (work := group.receive_work()) is not None:
            if isinstance(work, StepArguments):
                local.step(work)
            else:
                group.run_together(work, local)
    except BaseException as error:
        group.abort(error)  # rank 0 waits inside a collective and could not be told otherwise
        raise
