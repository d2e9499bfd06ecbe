"""Choosing how a runstream's ranks run: in this process, as MPI ranks that were started already, or as children."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from vamc_runtime.errors import UserError
from vamc_runtime.executor import Executor, RankExecutor, RankPlace
from vamc_runtime.machine import available_cores
from vamc_runtime.ranks.place import launched_rank
from vamc_runtime.runstream import Runstream, check_hashes, check_rank_weights, check_toolchain


@contextlib.contextmanager
def open_executor(runstream: Runstream, *, num_pages: int, verify_hash: bool) -> Iterator[Executor]:
    """An executor for all ranks of a runstream.

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
            fix="start that many, or leave mpiexec away: ranks are then started by themselves",
        )
    if num_ranks == 1:
        check_toolchain(runstream)
        check_rank_weights(runstream, 0)
        check_hashes(runstream, everything=verify_hash)  # before loading code: a damaged library ends the process
        place = RankPlace(rank=0, cores=tuple(available_cores()), num_pages=num_pages)
        with RankExecutor(runstream, place, None) as executor:
            yield executor
    elif launched is None:
        from vamc_runtime.ranks.remote import RemoteExecutor

        with RemoteExecutor(runstream, num_pages=num_pages, verify_hash=verify_hash) as executor:
            yield executor
    else:
        with _as_rank(runstream, num_pages, verify_hash) as executor:
            yield executor


@contextlib.contextmanager
def _as_rank(runstream: Runstream, num_pages: int, verify_hash: bool) -> Iterator[Executor]:
    from vamc_runtime.ranks.mpi import MpiExecutor, MpiGroup, serve_steps
    from vamc_runtime.ranks.serve import open_rank

    group = MpiGroup()
    local = open_rank(runstream.path, num_pages, group, verify_hash=verify_hash)
    if group.rank != 0:
        serve_steps(group, local)
        raise SystemExit(0)
    executor = MpiExecutor(group, local)
    try:
        yield executor
    finally:
        executor.end()
