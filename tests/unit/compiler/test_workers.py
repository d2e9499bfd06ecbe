"""Worker processes that die within their work: the signal is named, none is left, and they end with their parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import ClassVar

import pytest

from vamc_compiler.workers import _explain_end, run_tasks
from vamc_runtime.errors import UserError
from vamc_runtime.spawning import _Process


def end_by(number: int) -> int:
    """Task 0 ends its process by itself; others go on."""
    if number:
        os.kill(os.getpid(), number)
    time.sleep(0.05)
    return os.getpid()


@pytest.mark.parametrize(
    ("number", "error", "found"),
    [
        (signal.SIGKILL, UserError, "a worker process was killed"),
        (signal.SIGSEGV, RuntimeError, r"ended unexpectedly \(exit status .*-11"),
    ],
)
def test_a_worker_that_dies(number: signal.Signals, error: type[Exception], found: str) -> None:
    with pytest.raises(error, match=found):
        run_tasks(end_by, [0, int(number), 0, 0], 2, lambda pid: None)
    assert not multiprocessing.active_children()


def lack_memory(number: int) -> int:
    """As numpy raises it where memory runs out."""
    raise MemoryError(f"Unable to allocate {number} GiB")


def test_a_lack_in_a_worker_arrives_as_such() -> None:
    with pytest.raises(MemoryError, match="Unable to allocate 7 GiB"):
        run_tasks(lack_memory, [7, 7], 2, lambda pid: None)


def test_a_parent_that_is_gone_before_its_worker_begins(tmp_path: Path) -> None:
    """The worker still imports when its parent is killed, so that only asking the kernel later would be too late."""
    program = tmp_path / "parent.py"
    program.write_text(
        "import os, time\n"
        "from vamc_compiler.workers import _begin_worker\n"
        "from vamc_runtime.spawning import spawn_context\n"
        "def work():\n"
        "    _begin_worker()\n"
        "    time.sleep(1000)\n"
        "if __name__ == '__main__':\n"
        "    spawn_context().Process(target=work).start()\n"
        "    os._exit(0)\n"
        "os.write(1, b'worker ')\n"
    )
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, start_new_session=True) as parent:
        try:
            output, _ = parent.communicate(timeout=60)  # the pipe closes when the worker is gone too
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(parent.pid, signal.SIGKILL)
    assert output == b"worker "


def test_a_worker_whose_end_is_told_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool's own thread may have taken a status from the system, and not have noted it yet."""

    class Late:
        exitcodes: ClassVar = [None, None, -signal.SIGKILL]

        def join(self, timeout: float) -> None:
            """Returns early: the system knows no such child any more."""

        @property
        def exitcode(self) -> int | None:
            return self.exitcodes.pop(0) if len(self.exitcodes) > 1 else self.exitcodes[0]

    error = _explain_end([Late()], BrokenProcessPool("broken"))  # type: ignore[list-item]  # of a process, all it asks
    assert isinstance(error, UserError) and "a worker process was killed" in str(error)


def test_a_worker_that_is_killed_while_it_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(process: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(_Process, "_Popen", staticmethod(start))
    with pytest.raises(UserError, match="a worker process was killed"):
        run_tasks(end_by, [0, 0], 2, lambda pid: None)


def fail_on_two(task: int) -> int:
    if task == 2:
        raise UserError("two", expected="not two", fix="leave it out")
    return task * 10


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_in_a_worker_arrives_whole(num_workers: int) -> None:
    done: list[int] = []
    with pytest.raises(UserError) as caught:
        run_tasks(fail_on_two, [1, 2, 3], num_workers, done.append)
    assert (caught.value.found, caught.value.expected, caught.value.fix) == ("two", "not two", "leave it out")
    assert set(done) <= {10, 30}
