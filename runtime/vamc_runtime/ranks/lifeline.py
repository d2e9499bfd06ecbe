"""A rank ends with the processes that started it, however they end and whatever the rank is doing.

A thread watches two things: the socket of the program, which every rank inherits and which hangs up when the program
closes its end or dies, and the parent process (the launcher's). Nothing heavy is imported here, so that a rank watches
before it does anything else.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

from vamc_runtime.ranks import shared_memory

SOCKET_VARIABLE = "VAMC_RANK0_SOCKET"
"""Number of the inherited file descriptor."""
GRACE_SECONDS = 0.3
"""How long a rank may take to end by itself, MPI included, once the program hung up."""
LOOK_SECONDS = 0.2
"""How often the parent is looked at."""
_PR_SET_PDEATHSIG = 1


def watch(status: int = 0) -> None:
    """Watch from now on; in every rank, once.

    Args:
        status: exit status of a rank that is ended: 0 where nobody is left to read it, so that launchers stay quiet.
    """
    descriptor = os.environ.get(SOCKET_VARIABLE)
    arguments = (None if descriptor is None else int(descriptor), os.getppid(), status)
    threading.Thread(target=_watch, args=arguments, name="lifeline", daemon=True).start()


def _watch(descriptor: int | None, parent: int, status: int) -> None:
    poller = select.poll()
    if descriptor is not None:
        poller.register(descriptor, select.POLLRDHUP)
    while os.getppid() == parent:
        if poller.poll(LOOK_SECONDS * 1000):
            time.sleep(GRACE_SECONDS)
            break
    end(status)


@contextlib.contextmanager
def signals_end_it() -> Iterator[None]:
    """While the main thread waits for other ranks in MPI's start, where Python cannot handle signals, they end it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def wait() -> None:
        for number in os.read(reader, 1):
            if number in (signal.SIGINT, signal.SIGTERM):
                end(128 + number)

    waiting = threading.Thread(target=wait, name="signals", daemon=True)
    waiting.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        waiting.join()
        os.close(reader)


def end(status: int = 0) -> NoReturn:
    """End this process at once: no exit handler runs, since MPI's would wait for other ranks."""
    shared_memory.unlink_names(at_the_end=True)
    os._exit(status)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, for a thread that cannot run to notice.

    Only where the parent is a launcher's process: the signal is tied to the thread that started this process.

    Args:
        parent: its process id, from a time when it surely lived: what it is by now may have taken this process over.
    """
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel was asked
        end()
