"""Ranks as child processes: started with `mpiexec`, driven from this process over a local socket.

A program that opens a runstream with several ranks need not be started by `mpiexec` itself. It keeps tokenizer,
scheduler and sampler; the children compute. Rank 0 of them is on the other end of the socket.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from vamc_runtime.errors import UserError
from vamc_runtime.executor import RankExecutor, StepArguments
from vamc_runtime.ranks.mpi import missing_mpi
from vamc_runtime.ranks.options import RankOptions
from vamc_runtime.ranks.wire import Loading, receive, send
from vamc_runtime.runstream import Runstream
from vamc_runtime.weights_memory import OnLoad

T = TypeVar("T")
SOCKET_VARIABLE = "VAMC_RANK0_SOCKET"
SHARED_MEMORY = Path("/dev/shm")
ENOUGH_SHARED_MEMORY_BYTES = 48 << 20
"""Below this, a small /dev/shm is the likeliest reason why ranks end (containers have 64 MiB by default)."""


def find_mpiexec() -> str:
    """`mpiexec` of this environment (the MPICH wheel puts it beside python), else of PATH.

    Raises:
        UserError: mpi4py or mpiexec is missing.
    """
    if importlib.util.find_spec("mpi4py") is None:
        raise missing_mpi("no module mpi4py")
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.is_file() else shutil.which("mpiexec")
    if found is None:
        raise missing_mpi("no mpiexec beside python or on PATH")
    return found


class RemoteExecutor:
    """Ranks (`executor.Ranks`) that are child processes, started with the context and ended with it.

    The socket is an inherited file descriptor: no name in the file system, and when this process dies, however it
    dies, rank 0 reads the end of the stream and ends all ranks.
    """

    def __init__(self, runstream: Runstream, options: RankOptions, on_load: OnLoad | None = None) -> None:
        self._runstream = runstream
        self._options = options
        self._on_load = on_load
        self._socket: socket.socket
        self._process: subprocess.Popen[bytes] | None = None
        self._in_step = False

    def __enter__(self) -> RemoteExecutor:
        num_ranks = self._runstream.manifest.tensor_parallel
        command = [find_mpiexec(), "-n", str(num_ranks), sys.executable, "-m", "vamc_runtime.ranks.serve"]
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(self._runstream.path), *self._options.command_line()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # standard output belongs to the user's program
                env={**os.environ, SOCKET_VARIABLE: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is this process's to handle; it ends the ranks itself
            )
        try:
            while isinstance(loading := self._receive(), Loading):  # until all ranks are ready, or rank 0 says why not
                if self._on_load is not None:
                    self._on_load(loading.done_bytes, loading.total_bytes)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def step(self, arguments: StepArguments) -> npt.NDArray[np.float32]:
        """See `executor.Executor`."""
        logits = self._ask(tuple(arguments))
        assert isinstance(logits, np.ndarray), "rank 0 answers a step with logits"
        return logits

    def on_every_rank(self, task: Callable[[RankExecutor], T]) -> list[T]:
        """See `executor.Ranks`."""
        results = self._ask(task)
        assert isinstance(results, list), "rank 0 answers a task with every rank's result"
        return results

    def _ask(self, work: object) -> object:
        if self._in_step:  # the answer on its way is the earlier step's
            raise RuntimeError("an earlier step was interrupted or failed: leave the context and open the LLM again")
        self._in_step = True
        try:
            send(self._socket, work)
        except ConnectionError:
            raise self._ended() from None
        answer = self._receive()
        self._in_step = False
        return answer

    def _receive(self) -> object:
        try:
            answer = receive(self._socket)
        except (EOFError, ConnectionError):
            raise self._ended() from None
        if isinstance(answer, UserError):
            raise answer
        if isinstance(answer, BaseException):
            raise RuntimeError("a rank failed") from answer
        return answer

    def _ended(self) -> Exception:
        """The error for ranks that are gone, whichever way the socket shows it."""
        assert self._process is not None, "entered"
        found = f"the ranks ended unexpectedly (mpiexec exit status {self._process.wait()})"
        free_bytes = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0
        if free_bytes >= ENOUGH_SHARED_MEMORY_BYTES:
            return RuntimeError(found)
        return UserError(
            f"{found}, and {SHARED_MEMORY} has {free_bytes / 2**20:.0f} MiB free",
            expected=f"{ENOUGH_SHARED_MEMORY_BYTES >> 20} MiB or more: ranks of one host exchange tensors there",
            fix="give it more, for example docker run --shm-size=1g",
        )

    def _end(self) -> None:
        """Close the socket, upon which the ranks end; make sure that they do."""
        assert self._process is not None, "entered"
        self._socket.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
