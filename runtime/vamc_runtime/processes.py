"""Other processes, as /proc shows them."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_STATE, _PARENT = 0, 1
"""Fields of /proc/PID/stat after the name, which may itself hold spaces and brackets."""


def living_children(process: int) -> list[int]:
    """Children of a process that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                if int(fields[_PARENT]) == process and fields[_STATE] not in (b"Z", b"X"):
                    found.append(int(entry.name))
    return found


def kill_tree(process: int) -> None:
    """Kill a process of this program and everything below it.

    Spared is multiprocessing's resource tracker: it ends by itself once the others have, and removes the semaphores and
    shared memory that they leave behind.
    """
    below = living_children(process)
    if not _is_resource_tracker(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    for child in below:
        kill_tree(child)


def _is_resource_tracker(process: int) -> bool:
    with contextlib.suppress(OSError):
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{process}/cmdline").read_bytes()
    return False


def out_of_memory_kills() -> int | None:
    """How many processes Linux has killed since it started because memory ran out; None where it does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


def fatal_signal(status: int) -> signal.Signals | None:
    """The signal that ended a process, from its exit status as Popen, a shell or MPICH's mpiexec gives it.

    MPICH's mpiexec ends with the bare number of the signal that ended a rank. Ranks end with 0 to 2 and 130 themselves,
    so numbers above those mean signals.
    """
    number = -status if status < 0 else status - 128 if status > 128 else status
    try:
        found = signal.Signals(number)
    except ValueError:
        return None
    return found if status < 0 or status > 128 or number > signal.SIGINT else None
