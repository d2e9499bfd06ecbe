"""A rank ends when its program hangs up or its parent is gone, whatever it is doing; and not before."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vamc_runtime.ranks.lifeline import SOCKET_VARIABLE

WAIT_SECONDS = 60
RANK = """
import os, socket, sys, threading, time
from vamc_runtime.ranks import lifeline
lifeline.watch(7)
os.write(1, b"on ")
{work}
"""
BUSY = "while True: pass"
WAITING = "threading.Event().wait()"
IN_C = "import ctypes; ctypes.CDLL(None).sleep(1000)"
AT_EXIT = "import atexit; atexit.register(time.sleep, 1000)"
ORDERLY = f"socket.socket(fileno=int(os.environ[{SOCKET_VARIABLE!r}])).recv(1); sys.exit(3)"


def start(work: str, theirs: socket.socket, **options: object) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", RANK.format(work=work)],
        stdout=subprocess.PIPE,
        pass_fds=[theirs.fileno()],
        env={**os.environ, SOCKET_VARIABLE: str(theirs.fileno())},
    )
    assert process.stdout is not None and process.stdout.read(3) == b"on "
    return process


@pytest.mark.parametrize(
    ("work", "status"),
    [(BUSY, 7), (WAITING, 7), (IN_C, 7), (AT_EXIT, 7), (ORDERLY, 3)],
    ids=lambda value: str(value)[:20],
)
def test_the_program_hangs_up(work: str, status: int) -> None:
    ours, theirs = socket.socketpair()
    with theirs, start(work, theirs) as process:
        ours.sendall(b"")  # neither this nor being left alone for a while ends it
        time.sleep(0.5)
        assert process.poll() is None
        ours.close()
        assert process.wait(WAIT_SECONDS) == status


def test_work_that_is_not_read_is_not_the_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, start(WAITING, theirs) as process:
        ours.sendall(b"work")
        time.sleep(0.7)
        assert process.poll() is None
        process.kill()


PARENT = """
import subprocess, sys
rank = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
rank.wait()
"""


@pytest.mark.parametrize("work", [BUSY, IN_C], ids=["busy", "in C"])
def test_the_parent_is_killed(work: str) -> None:
    """As an mpiexec of the user's, without a socket."""
    environment = {name: value for name, value in os.environ.items() if name != SOCKET_VARIABLE}
    command = [sys.executable, "-c", PARENT, RANK.format(work=work)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None and parent.stdout.read(3) == b"on "
        parent.send_signal(signal.SIGKILL)
        assert parent.stdout.read() == b"", "the pipe closes when the rank is gone too"


def test_the_kernel_ends_it_where_no_thread_can_run(tmp_path: Path) -> None:
    """`die_with_parent`: the interpreter's lock is held, as by a library that never lets go of it."""
    rank = (
        "import ctypes, os\n"
        "from vamc_runtime.ranks import lifeline\n"
        "lifeline.die_with_parent(os.getppid())\nos.write(1, b'on ')\n"
        "ctypes.PyDLL(None).sleep(1000)"
    )
    with subprocess.Popen([sys.executable, "-c", PARENT, rank], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.read(3) == b"on "
        parent.send_signal(signal.SIGKILL)
        assert parent.stdout.read() == b""
