"""What /proc says of other processes, and what exit statuses mean."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from vamc_runtime.processes import fatal_signal, kill_tree, living_children, out_of_memory_kills

PARENT = "import subprocess, sys; p = subprocess.Popen(['sleep', '1000']); print(p.pid, flush=True); p.wait()"


def test_a_tree_is_found_and_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert parent.pid in living_children(os.getpid())
        assert living_children(parent.pid) == [child]
        kill_tree(parent.pid)
        assert parent.stdout.read() == "", "the child, which holds the pipe, is gone"
        assert parent.wait() == -signal.SIGKILL
    assert parent.pid not in living_children(os.getpid())


def test_a_child_that_ended_does_not_live() -> None:
    with subprocess.Popen(["true"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie
        assert process.pid not in living_children(os.getpid())


def test_a_tree_that_is_gone() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    kill_tree(process.pid)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (0, None),
        (1, None),  # MPI_Abort, a Python error
        (2, None),
        (9, signal.SIGKILL),  # MPICH's mpiexec, of a rank
        (15, signal.SIGTERM),
        (137, signal.SIGKILL),  # Open MPI's, a shell's
        (139, signal.SIGSEGV),
        (130, signal.SIGINT),
        (-9, signal.SIGKILL),  # mpiexec itself
        (-2, signal.SIGINT),
        (255, None),
        (70, None),
        (128, None),
    ],
)
def test_signals_in_exit_statuses(status: int, expected: signal.Signals | None) -> None:
    assert fatal_signal(status) is expected


def test_the_count_of_processes_killed_for_memory() -> None:
    with open("/proc/vmstat", encoding="ascii") as file:  # noqa: PTH123  # read as another program would
        lines = [line.split()[1] for line in file if line.startswith("oom_kill ")]
    assert out_of_memory_kills() == (int(lines[0]) if lines else None)
