"""Ranks as child processes: started with `mpiexec`, driven from this process over a local socket.

A program that opens a runstream with several ranks need not be started by `mpiexec` itself. It keeps tokenizer,
scheduler and sampler; the children compute. Rank 0 of them is on the other end of the socket.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import shutil
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from vamc_runtime.child_python import python_command, python_environment
from vamc_runtime.errors import UserError
from vamc_runtime.executor import RankExecutor, StepArguments
from vamc_runtime.processes import kill_tree, living_children, out_of_memory_kills
from vamc_runtime.ranks import shared_memory
from vamc_runtime.ranks.failures import explain_end
from vamc_runtime.ranks.lifeline import SOCKET_VARIABLE
from vamc_runtime.ranks.mpi import missing_mpi
from vamc_runtime.ranks.options import RankOptions
from vamc_runtime.ranks.wire import Loading, receive, send
from vamc_runtime.runstream import Runstream
from vamc_runtime.weights_memory import OnLoad

T = TypeVar("T")
RANK_CODE = (
    "from vamc_runtime.ranks import lifeline; lifeline.watch(); from vamc_runtime.ranks.serve import main; main()"
)
END_SECONDS = 0.8
"""How long the launcher may take to end after the program hung up; ranks take `lifeline.GRACE_SECONDS` at most."""
LOOK_MILLISECONDS = 500
"""How often a program that waits for an answer looks whether the launcher still has ranks."""


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

    The socket is an inherited file descriptor: no name in the file system. When this process dies, however it dies,
    the socket hangs up and every rank ends (`lifeline`).
    """

    def __init__(self, runstream: Runstream, options: RankOptions, on_load: OnLoad | None = None) -> None:
        self._runstream = runstream
        self._options = options
        self._on_load = on_load
        self._socket: socket.socket
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self._in_step = False
        self._is_ready = False
        self._had_children = False
        self._started = 0.0
        self._kills_before: int | None = None

    def __enter__(self) -> RemoteExecutor:
        manifest = self._runstream.manifest
        command = [find_mpiexec(), "-n", str(manifest.tensor_parallel), *python_command(RANK_CODE)]
        command += [str(self._runstream.path), "--manifest", manifest.digest, *self._options.command_line()]
        self._owner = os.getpid()
        self._started = time.time()
        self._kills_before = out_of_memory_kills()
        self._socket, theirs = socket.socketpair()
        _OPEN.add(self)
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,  # standard output belongs to the user's program
                    env=python_environment(**{SOCKET_VARIABLE: str(theirs.fileno())}),
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C is this process's to handle; it ends the ranks itself
                )
            while isinstance(loading := self._receive(), Loading):  # until all ranks are ready, or rank 0 says why not
                if self._on_load is not None:
                    self._on_load(loading.done_bytes, loading.total_bytes)
            self._is_ready = True
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
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        while not poller.poll(LOOK_MILLISECONDS):
            if not self._has_ranks():
                raise self._ended()
        try:
            answer = receive(self._socket)
        except (EOFError, ConnectionError):
            raise self._ended() from None
        if isinstance(answer, UserError):
            raise answer
        if isinstance(answer, BaseException):
            raise RuntimeError("a rank failed") from answer
        return answer

    def _has_ranks(self) -> bool:
        """Whether the launcher runs anything; one that lost its ranks may wait for ever, and keeps the socket open."""
        assert self._process is not None, "entered"
        children = bool(living_children(self._process.pid))
        self._had_children = self._had_children or children
        return children or (not self._had_children and self._process.poll() is None)

    def _ended(self) -> Exception:
        """The error for ranks that are gone, whichever way it shows."""
        status = self._end()
        return explain_end(status, self._runstream.manifest, self._options, kills_before=self._kills_before)

    def _end(self) -> int | None:
        """Hang up, upon which the ranks end; make sure that they do, and leave nothing behind.

        Returns:
            The launcher's exit status; None when it had to be killed, or belongs to another process.
        """
        if os.getpid() != self._owner:  # a fork of the program: the ranks are the program's
            self.close_copy()
            return None
        with contextlib.suppress(OSError):  # the ranks are gone
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._process is None:
            return None
        try:
            return self._process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            kill_tree(self._process.pid)
        except BaseException:  # a second Ctrl-C
            kill_tree(self._process.pid)
            raise
        finally:
            self._process.wait()
            if not self._is_ready:
                shared_memory.sweep(self._started)
        return None

    def close_copy(self) -> None:
        """In a forked process: close its copy of the socket, and nothing else."""
        self._socket.close()


_OPEN: weakref.WeakSet[RemoteExecutor] = weakref.WeakSet()


def _close_copies() -> None:
    for executor in list(_OPEN):
        executor.close_copy()


# A copy in a forked process would keep the socket from hanging up when the program dies.
os.register_at_fork(after_in_child=_close_copies)
