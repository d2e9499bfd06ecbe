"""`python -m vamc_runtime.ranks.serve RUNSTREAM`: one rank, started by `RemoteExecutor` through mpiexec.

Rank 0 takes steps from the socket of the program that started it and passes them on; the others take them from
rank 0. All end when the program closes the socket.
"""

from __future__ import annotations

import argparse
import os
import socket
from pathlib import Path

from vamc_runtime.errors import UserError
from vamc_runtime.executor import RankExecutor, RankPlace, StepArguments
from vamc_runtime.ranks.mpi import MpiExecutor, MpiGroup, serve_steps
from vamc_runtime.ranks.remote import SOCKET_VARIABLE
from vamc_runtime.ranks.wire import receive, send
from vamc_runtime.runstream import check_hashes, check_rank_weights, check_toolchain, open_runstream


def open_rank(path: Path, num_pages: int, group: MpiGroup, *, verify_hash: bool) -> RankExecutor:
    """Check the runstream on every rank and build this rank's executor; all ranks fail when one does.

    Raises:
        UserError: the runstream cannot run here; names the rank.
    """
    ranks: list[RankExecutor] = []

    def check() -> None:
        runstream = open_runstream(path)
        expected = runstream.manifest.tensor_parallel
        if group.num_ranks != expected:
            raise UserError(
                f"{group.num_ranks} ranks were started for a runstream of {expected}",
                expected=f"mpiexec -n {expected}",
            )
        check_toolchain(runstream)
        check_rank_weights(runstream, group.rank)

    def compare_hashes() -> None:
        if group.local_rank == 0:  # one rank of each host, which may have a copy of its own
            check_hashes(open_runstream(path), everything=verify_hash)

    def load() -> None:
        place = RankPlace(rank=group.rank, cores=cores, num_pages=num_pages)
        rank = RankExecutor(open_runstream(path), place, group)
        rank.__enter__()
        ranks.append(rank)

    cores = group.share_of_cores()
    group.agree(check)  # whose the weights are says more than a wrong hash, which a swapped file has too
    group.agree(compare_hashes)  # before any rank loads code: a damaged library ends a process without an error
    group.agree(load)
    return ranks[0]


def _serve_program(stream: socket.socket, executor: MpiExecutor) -> None:
    while True:
        try:
            message = receive(stream)
        except (EOFError, ConnectionError):
            return
        assert isinstance(message, tuple), "the program sends the arguments of a step"
        send(stream, executor.step(StepArguments(*message)))


def main() -> None:
    """Run this rank until it is told to end."""
    parser = argparse.ArgumentParser(prog="python -m vamc_runtime.ranks.serve")
    parser.add_argument("runstream", type=Path)
    parser.add_argument("--pages", type=int, required=True)
    parser.add_argument("--verify-hash", action="store_true")
    options = parser.parse_args()
    group = MpiGroup()
    stream = socket.socket(fileno=int(os.environ[SOCKET_VARIABLE])) if group.rank == 0 else None
    try:
        local = open_rank(options.runstream, options.pages, group, verify_hash=options.verify_hash)
    except UserError as error:
        if stream is not None:
            send(stream, error)
        return
    if stream is None:
        serve_steps(group, local)
        return
    executor = MpiExecutor(group, local)
    try:
        send(stream, None)
        _serve_program(stream, executor)
        executor.end()
    except BaseException as error:
        send(stream, RuntimeError(f"{type(error).__name__}: {error}"))
        group.abort()  # the other ranks wait inside a collective and could not be told otherwise
        raise


if __name__ == "__main__":
    main()
