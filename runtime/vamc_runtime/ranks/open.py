"""Choosing how a runstream's ranks run: in this process, as MPI ranks that were started already, or as children."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from vamc_runtime.errors import UserError
from vamc_runtime.executor import RankExecutor, RankPlace, Ranks
from vamc_runtime.machine import available_cores, one_per_core
from vamc_runtime.own_thread import OwnThread
from vamc_runtime.ranks import lifeline
from vamc_runtime.ranks.options import RankOptions
from vamc_runtime.ranks.place import choose_cores, launched_rank
from vamc_runtime.runstream import Runstream, check_hashes, check_rank_weights, check_toolchain
from vamc_runtime.weights_memory import OnLoad

EXIT_LAUNCHER_GONE = 1
"""Of a rank that a user's mpiexec started, when that ends before its ranks."""


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Where a launcher started several ranks: a mistake that one of them meets before MPI starts is raised on all.

    Else the others would wait for that one for ever, in MPI's start. To be entered by all ranks, as every command is.
    """
    try:
        yield
    except UserError as error:
        launched = launched_rank()
        if launched is not None and launched[1] > 1:
            _tell_all(error)
        raise


def _tell_all(error: UserError) -> None:
    """Raise an error on every rank, unless MPI runs (whoever uses it has told them) or cannot start."""
    from vamc_runtime.ranks.mpi import MpiGroup, is_started

    if is_started():
        return

    def fail() -> None:
        raise error

    lifeline.watch(EXIT_LAUNCHER_GONE)
    try:
        group = MpiGroup()
    except UserError:
        return
    group.agree(fail)


@contextlib.contextmanager
def open_executor(runstream: Runstream, options: RankOptions, on_load: OnLoad | None = None) -> Iterator[Ranks]:
    """All ranks of a runstream.

    Under `mpiexec`, ranks other than 0 never reach the body: they compute what rank 0 sends and then end the
    process.

    Raises:
        UserError: the runstream cannot run here, MPI is missing, or mpiexec started another number of ranks.
    """
    num_ranks = runstream.manifest.tensor_parallel
    launched = launched_rank()
    if launched is not None and launched[1] != num_ranks:
        raise UserError(
            f"the runstream has {num_ranks} rank{'s' * (num_ranks > 1)}, and mpiexec started {launched[1]}",
            expected=f"mpiexec -n {num_ranks}" + (", or no mpiexec" if launched[1] > 1 else ""),
            fix="start that many, or run it without mpiexec; vamc starts the ranks itself",
        )
    if num_ranks == 1:
        check_toolchain(runstream)
        check_rank_weights(runstream, 0)
        # Before loading code: a damaged library ends the process.
        check_hashes(runstream, everything=options.verify_hash)
        place = RankPlace(
            rank=0,
            cores=choose_cores(options.num_threads, one_per_core(available_cores())),
            num_pages=options.num_pages,
            huge_pages=options.effective_huge_pages(runstream.manifest),
        )
        with OwnThread(lambda loading: RankExecutor(runstream, place, None, loading), on_load) as executor:
            yield executor
    elif launched is None:
        from vamc_runtime.ranks.remote import RemoteExecutor

        with RemoteExecutor(runstream, options, on_load) as executor:
            yield executor
    else:
        with _as_rank(runstream, options, on_load) as executor:
            yield executor


@contextlib.contextmanager
def _as_rank(runstream: Runstream, options: RankOptions, on_load: OnLoad | None) -> Iterator[Ranks]:
    """This process as one of the ranks that a launcher started.

    MPI and compiled code run in a thread of their own: a signal is raised in the main thread, which waits for that
    one, and never within them, where it could get lost or leave the other ranks behind in a collective.
    """
    from vamc_runtime.ranks.mpi import MpiExecutor, MpiGroup, serve_steps
    from vamc_runtime.ranks.serve import open_rank

    lifeline.watch(EXIT_LAUNCHER_GONE)
    group = MpiGroup()

    @contextlib.contextmanager
    def opened(loading: OnLoad) -> Iterator[MpiExecutor]:
        group.agree(lambda: None)  # unless a rank is in `_tell_all`
        # Rank 0's choices hold for all: it gives out cache pages, and hosts differ in the memory they have.
        chosen, digest = group.from_first_rank((options, runstream.manifest.digest))
        executor = MpiExecutor(group, open_rank(runstream.path, digest, chosen, group, loading))
        yield executor
        if group.rank == 0:
            executor.end()

    def serve(executor: MpiExecutor) -> None:
        os.sched_setaffinity(0, executor.local.place.cores)  # while it waits it stays off the other ranks' cores
        serve_steps(group, executor.local)

    with OwnThread(opened, on_load, give_up=group.abort) as ranks:
        if group.rank == 0:
            yield ranks
        else:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every rank; rank 0 decides what it means
            try:
                ranks.run(serve)
            except (KeyboardInterrupt, SystemExit) as error:
                group.abort(error)
            raise SystemExit(0)
