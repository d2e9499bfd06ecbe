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
from vamc_runtime.ranks.options import RankOptions
from vamc_runtime.ranks.remote import SOCKET_VARIABLE
from vamc_runtime.ranks.wire import Loading, receive, send
from vamc_runtime.runstream import check_hashes, check_rank_weights, check_toolchain, open_runstream
from vamc_runtime.weights_memory import OnLoad


def open_rank(path: Path, options: RankOptions, group: MpiGroup, on_load: OnLoad | None = None) -> RankExecutor:
    """Check the runstream on every rank and build this rank's executor; all ranks fail when one does.

    `on_load` is told about rank 0's weights; the other ranks load theirs at the same time.

    Raises:
        UserError: the runstream cannot run here; names the rank.
    """
    ranks: list[RankExecutor] = []
    cores: list[int] = []

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
        cores.extend(group.choose_cores(options.num_threads))

    def compare_hashes() -> None:
        if group.local_rank == 0:  # one rank of each host, which may have a copy of its own
            check_hashes(open_runstream(path), everything=options.verify_hash)

    def load() -> None:
        runstream = open_runstream(path)
        place = RankPlace(
            rank=group.rank,
            cores=tuple(cores),
            num_pages=options.num_pages,
            huge_pages=options.effective_huge_pages(runstream.manifest),
        )
        rank = RankExecutor(runstream, place, group, on_load if group.rank == 0 else None)
        rank.__enter__()
        ranks.append(rank)

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
        if isinstance(message, tuple):
            send(stream, executor.step(StepArguments(*message)))
        else:
            assert callable(message), "the program sends the arguments of a step, or a task"
            try:
                send(stream, executor.on_every_rank(message))
            except UserError as error:
                send(stream, error)


def main() -> None:
    """Run this rank until it is told to end."""
    parser = argparse.ArgumentParser(prog="python -m vamc_runtime.ranks.serve")
    parser.add_argument("runstream", type=Path)
    parser.add_argument("--pages", type=int, required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--huge-pages")
    parser.add_argument("--verify-hash", action="store_true")
    arguments = parser.parse_args()
    options = RankOptions(
        num_pages=arguments.pages,
        num_threads=arguments.threads,
        huge_pages=arguments.huge_pages,
        verify_hash=arguments.verify_hash,
    )
    group = MpiGroup()
    stream = socket.socket(fileno=int(os.environ[SOCKET_VARIABLE])) if group.rank == 0 else None

    def on_load(done_bytes: int, total_bytes: int) -> None:
        if stream is not None:
            send(stream, Loading(done_bytes, total_bytes))

    try:
        local = open_rank(arguments.runstream, options, group, on_load)
    except UserError as error:
        if stream is not None:
            send(stream, error)
        return
    os.sched_setaffinity(0, local.place.cores)  # while it waits it stays off the other ranks' cores
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
