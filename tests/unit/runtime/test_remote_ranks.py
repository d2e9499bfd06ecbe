"""The ranks' program side: starts them, believes no stale answer, and leaves no process behind.

`mpiexec` is replaced by a script that plays rank 0; real ranks are tested in tests/e2e.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, cast

import fake_runstream as fake
import numpy as np
import pytest

from vamc_runtime.child_python import python_command
from vamc_runtime.errors import UserError
from vamc_runtime.executor import StepArguments
from vamc_runtime.ranks import remote
from vamc_runtime.ranks.options import RankOptions
from vamc_runtime.ranks.remote import RANK_CODE, RemoteExecutor, find_mpiexec
from vamc_runtime.ranks.wire import send
from vamc_runtime.runstream import open_runstream
from vamc_runtime.weights_memory import OnLoad

PLAY_RANK_0 = """\
    #!{python}
    import os, socket, sys, time
    import numpy as np
    from vamc_runtime.errors import UserError
    from vamc_runtime.ranks.remote import SOCKET_VARIABLE
    from vamc_runtime.ranks.wire import Loading, receive, send

    stream = socket.socket(fileno=int(os.environ[SOCKET_VARIABLE]))
    {prologue}
    send(stream, None)
    while True:
        try:
            message = receive(stream)
        except EOFError:
            break
        if callable(message):
            send(stream, [message("rank 0"), message("rank 1")])
            continue
        input_ids = message[0]
        {step}
        send(stream, np.full((1, 4), input_ids[0], np.float32))
    print("rank 0 says good-bye")
    open({log!r}, "w").write(" ".join(sys.argv[1:]))
"""

Start = Callable[..., RemoteExecutor]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """What the script was started with; written when it ends by itself."""
    return tmp_path / "arguments"


@pytest.fixture
def start(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    def run(
        *, prologue: str = "pass", step: str = "pass", num_pages: int = 3, on_load: OnLoad | None = None
    ) -> RemoteExecutor:
        script = tmp_path / "mpiexec"
        source = textwrap.dedent(PLAY_RANK_0)
        script.write_text(source.format(python=sys.executable, prologue=prologue, step=step, log=str(log)))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(remote, "find_mpiexec", lambda: str(script))
        fake.build(tmp_path / "fake", tensor_parallel=2)
        options = RankOptions(num_pages=num_pages, num_threads=2, huge_pages="on", verify_hash=True)
        return RemoteExecutor(open_runstream(tmp_path / "fake"), options, on_load)

    return run


def arguments(token: int) -> StepArguments:
    one = np.array([token], np.int32)
    return StepArguments(one, one, one, one.reshape(1, 1), one)


def is_running(executor: RemoteExecutor) -> bool:
    return executor._process is not None and executor._process.poll() is None


def test_steps(start: Start, log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with start() as executor:
        for token in (3, 5, 8):
            assert executor.step(arguments(token)).tolist() == [[token] * 4]
        assert is_running(executor)
    assert not is_running(executor)
    digest = open_runstream(tmp_path / "fake").manifest.digest
    assert log.read_text() == (
        f"-n 2 {' '.join(python_command(RANK_CODE))} {tmp_path / 'fake'} "
        f"--manifest {digest} --pages 3 --threads 2 --huge-pages on --verify-hash"
    )
    assert capfd.readouterr().out == "", "standard output belongs to the program"


def test_tasks(start: Start) -> None:
    with start() as executor:
        assert executor.on_every_rank(cast(Any, str.upper)) == ["RANK 0", "RANK 1"]
        assert executor.step(arguments(3)).tolist() == [[3] * 4]


@pytest.mark.parametrize("listens", [True, False])
def test_progress_of_loading(start: Start, listens: bool) -> None:
    heard: list[tuple[int, int]] = []
    prologue = "send(stream, Loading(0, 9)); send(stream, Loading(9, 9))"
    with start(prologue=prologue, on_load=(lambda done, total: heard.append((done, total))) if listens else None):
        assert heard == ([(0, 9), (9, 9)] if listens else [])


def test_what_rank_0_refuses_is_raised(start: Start) -> None:
    executor = start(prologue="send(stream, UserError('rank 1: bad', expected='good', fix='do')); sys.exit()")
    with pytest.raises(UserError) as caught, executor:
        pass
    assert (caught.value.found, caught.value.expected, caught.value.fix) == ("rank 1: bad", "good", "do")
    assert not is_running(executor)


def test_ranks_that_die_at_the_start(start: Start) -> None:
    executor = start(prologue="sys.exit(7)")
    with pytest.raises(RuntimeError, match=r"ended unexpectedly.*exit status 7"), executor:
        pass


def test_ranks_that_die_for_want_of_shared_memory(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    executor = start(prologue="sys.exit(7)")
    with pytest.raises(UserError, match=r"exit status 7.*/dev/shm has 1 MiB free"), executor:
        pytest.fail("the ranks are gone")


def test_ranks_that_die_in_a_step(start: Start) -> None:
    with start(step="sys.exit(7)") as executor, pytest.raises(RuntimeError, match="exit status 7"):
        executor.step(arguments(1))


def test_ranks_that_die_between_steps(start: Start) -> None:
    """Never a BrokenPipeError: the command line takes that for a reader that went away, and ends without a word."""
    with start(prologue="send(stream, None); sys.exit(7)") as executor:
        assert executor._process is not None
        executor._process.wait(timeout=30)
        with pytest.raises(RuntimeError, match="exit status 7"):
            executor.step(arguments(1))


def test_nothing_is_started_before_the_context(start: Start) -> None:
    assert start()._process is None


def test_a_rank_that_fails_in_a_step(start: Start) -> None:
    step = "send(stream, RuntimeError('ValueError: rank 1 is out of order')); continue"
    with start(step=step) as executor:
        with pytest.raises(RuntimeError, match="a rank failed") as caught:
            executor.step(arguments(1))
        assert "out of order" in str(caught.value.__cause__)


@pytest.fixture
def interrupt() -> Iterator[Callable[[float], None]]:
    """Ctrl-C after so many seconds."""

    def handler(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds) and None
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_the_answer_to_an_interrupted_step_is_not_taken_for_the_next(
    start: Start, interrupt: Callable[[float], None]
) -> None:
    with start(step="time.sleep(0.4)") as executor:
        interrupt(0.1)
        with pytest.raises(KeyboardInterrupt):
            executor.step(arguments(3))
        time.sleep(0.6)  # the answer of the interrupted step lies in the socket
        with pytest.raises(RuntimeError, match="open the LLM again"):
            executor.step(arguments(5))
    assert not is_running(executor)


def test_ranks_that_do_not_end_are_ended(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    wait = subprocess.Popen.wait  # the executor's patience, shortened
    monkeypatch.setattr(subprocess.Popen, "wait", lambda self, timeout=None: wait(self, timeout and 0.2))
    with start(step="time.sleep(60)") as executor:
        send(executor._socket, tuple(arguments(1)))  # rank 0 is busy and does not see the end
    assert executor._process is not None
    assert executor._process.returncode == -signal.SIGKILL


class TestFindMpiexec:
    def test_without_mpi4py(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UserError) as caught:
            find_mpiexec()
        assert "no module mpi4py" in caught.value.found and 'pip install "vamc[mpi]"' in caught.value.fix

    @pytest.fixture
    def bin(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        return tmp_path

    def test_beside_python_comes_first(self, bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "which", lambda name: "/opt/cluster/mpiexec")
        (bin / "mpiexec").touch()
        assert find_mpiexec() == str(bin / "mpiexec")

    def test_on_path(self, bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "which", lambda name: f"/opt/cluster/{name}")
        assert find_mpiexec() == "/opt/cluster/mpiexec"

    def test_nowhere(self, bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(os.environ, "PATH", str(bin))
        with pytest.raises(UserError, match="no mpiexec"):
            find_mpiexec()
