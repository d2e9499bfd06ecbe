"""One rank, started by `RemoteExecutor` through mpiexec.

Rank 0 takes steps from the socket of the program that started it and passes them on; the others take them from
rank 0. All end when the program closes the socket; those that cannot see it then are ended by their `lifeline`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
from pathlib import Path

from vamc_runtime.errors import UserError
from vamc_runtime.executor import RankExecutor, RankPlace, StepArguments
from vamc_runtime.ranks import lifeline
from vamc_runtime.ranks.mpi import MpiExecutor, MpiGroup, RankFailedError, serve_steps
from vamc_runtime.ranks.options import RankOptions
from vamc_runtime.ranks.place import launched_rank
from vamc_runtime.ranks.wire import Loading, receive, send
from vamc_runtime.runstream import Runstream, check_hashes, check_rank_weights, check_toolchain, open_runstream
from vamc_runtime.weights_memory import OnLoad


def open_rank(
    path: Path, digest: str, options: RankOptions, group: MpiGroup, on_load: OnLoad | None = None
) -> RankExecutor:
    """Check the runstream on every rank and build this rank's executor; all ranks fail when one does.

    Args:
        path: the runstream as this rank sees it; hosts may have copies of their own.
        digest: of the manifest that whoever sends the steps goes by.
        options: the same on every rank.
        group: all ranks.
        on_load: told about rank 0's weights; the other ranks load theirs at the same time.

    Raises:
        UserError: the runstream cannot run here, or is not the same one everywhere; names the rank.
    """
    ranks: list[RankExecutor] = []
    opened: list[Runstream] = []
    cores: list[int] = []

    def check() -> None:
        runstream = open_runstream(path)
        expected = runstream.manifest.tensor_parallel
        if group.num_ranks != expected:
            raise UserError(
                f"{group.num_ranks} ranks were started for a runstream of {expected}",
                expected=f"mpiexec -n {expected}",
            )
        _check_same(runstream, digest)
        check_toolchain(runstream)
        check_rank_weights(runstream, group.rank)
        cores.extend(group.choose_cores(options.num_threads))
        opened.append(runstream)

    def compare_hashes() -> None:
        if group.local_rank == 0:  # one rank of each host, which may have a copy of its own
            check_hashes(opened[0], everything=options.verify_hash)

    def load() -> None:
        runstream = opened[0]
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


def _check_same(runstream: Runstream, digest: str) -> None:
    """Refuse a runstream whose manifest is not the one that steps are made for.

    Raises:
        UserError: it is another runstream.
    """
    if runstream.manifest.digest != digest:
        raise UserError(
            f"{runstream.path} is another runstream than the one that was opened: its manifest.json differs",
            expected="one runstream for the program and all ranks",
            fix="copy the same runstream to every host; where it was replaced or compiled again meanwhile, start again",
        )


def _serve_program(stream: socket.socket, executor: MpiExecutor) -> None:
    """Rank 0: what the program asks for, until it hangs up."""
    send(stream, None)
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


def _serve(group: MpiGroup, path: Path, digest: str, options: RankOptions, stream: socket.socket | None) -> None:
    """Open this rank and serve until the end; raises on every rank what `open_rank` raises."""

    def on_load(done_bytes: int, total_bytes: int) -> None:
        if stream is not None:
            send(stream, Loading(done_bytes, total_bytes))

    local = open_rank(path, digest, options, group, on_load)
    os.sched_setaffinity(0, local.place.cores)  # while it waits it stays off the other ranks' cores
    if stream is None:
        serve_steps(group, local)
        return
    executor = MpiExecutor(group, local)
    _serve_program(stream, executor)
    executor.end()


def _tell(stream: socket.socket | None, error: Exception) -> None:
    """Rank 0: tell the program why there will be no ranks; it may be gone."""
    if stream is not None:
        with contextlib.suppress(OSError):
            send(stream, error)


def main() -> None:
    """Run this rank until it is told to end, or its program or its launcher is gone (see `lifeline`)."""
    launcher = os.getppid()
    parser = argparse.ArgumentParser(prog="vamc_runtime.ranks.serve")
    parser.add_argument("runstream", type=Path)
    parser.add_argument("--manifest", required=True)
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
    launched = launched_rank()
    is_first = launched is None or launched[0] == 0
    stream = socket.socket(fileno=int(os.environ[lifeline.SOCKET_VARIABLE])) if is_first else None
    try:
        group = MpiGroup()
    except UserError as error:  # no MPI library: on every rank
        _tell(stream, error)
        return
    lifeline.die_with_parent(launcher)
    try:
        _serve(group, arguments.runstream, arguments.manifest, options, stream)
    except (UserError, RankFailedError) as error:
        _tell(stream, error if isinstance(error, UserError) else RuntimeError(str(error)))
    except (BrokenPipeError, ConnectionResetError):  # the program is gone, in the middle of an answer
        lifeline.end()
    except BaseException as error:
        _tell(stream, RuntimeError(f"{type(error).__name__}: {error}"))
        group.abort(error)  # the other ranks wait inside a collective and could not be told otherwise
        raise
