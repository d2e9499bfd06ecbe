"""A command that works in a child process, while its parent stays small and sees to the end of it.

Native code ends a process without a word: LLVM exits when a disk is full, OpenBLAS when it gets no memory, anything
may crash when address space runs out, and Linux kills what uses too much. No handler in that process can catch all of
these, so the parent does what is left to do: it ends what the child had started, removes what the child had begun, and
says what happened. Checks of limits beforehand could not: how much is needed is known only after it was used.

The cost is one fork of a process that has loaded nothing yet: a few milliseconds and no memory worth speaking of. The
child stays in the terminal's foreground group, so Ctrl-C, Ctrl-Z and progress bars work as ever; signals that are sent
to the parent alone are passed on.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from vamc_runtime import resources
from vamc_runtime.console import say
from vamc_runtime.errors import EXIT_INTERNAL_ERROR, EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError
from vamc_runtime.processes import kill_tree, living_children, out_of_memory_kills
from vamc_runtime.ranks.lifeline import die_with_parent

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
LOOK_SECONDS = 0.5
"""How often the parent reads what the child reports."""
PATIENCE_SECONDS = 0.8
"""How long the child may take to end after a signal: native code that compiles hears none until it returns. What it had
begun is removed here then."""
EXIT_SECONDS = 0.3
"""How long it may take once it told its status: nothing is left to do, and an interpreter that ends with much loaded
may take seconds, or wait for processes that hang."""
TRACKER_SECONDS = 0.5
"""How long multiprocessing's resource tracker may take to end after the processes that it serves."""
LAST_LOOK_SECONDS = 0.1
"""How often it looks whether a child that should end has."""
LIMITED_LOOK_SECONDS = 0.02
"""The same where address space is limited: how much the child used can be seen only before it dies."""
_PR_SET_CHILD_SUBREAPER = 36
_SHOW_CURSOR = "\x1b[?25h"


class Journal:
    """What the child tells its parent while it works, through a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def stage(self, name: str) -> None:
        """A stage has begun."""
        self._tell(stage=name)

    def scratch(self, folder: Path) -> None:
        """A folder that must not be left behind; gone, or renamed into its place, when all went well."""
        self._tell(scratch=os.fspath(folder))

    def done(self, status: int) -> None:
        """The command is over: whatever happens to the process now, this is its exit status."""
        self._tell(status=status)

    def _tell(self, **entry: str | int) -> None:
        with contextlib.suppress(OSError):  # the parent is gone, and this process ends with it
            os.write(self._descriptor, json.dumps(entry).encode() + b"\n")


@dataclass
class _Child:
    """What the parent knows of the child."""

    pid: int
    journal: int
    """Where to read what it tells."""
    folders: list[Path] = field(default_factory=list)
    """What it had begun."""
    stage: str = ""
    status: int | None = None
    """Exit status of the command, once it told."""
    address_space_bytes: int = 0
    """The most it was seen to use."""
    peak_bytes: int = 0
    """The most memory that it, or a process that it waited for, had at a time."""
    interrupted_by: int | None = None
    """The last signal that was passed on."""
    deadline: float | None = None
    """When it is ended, on the clock of time.monotonic, should it not have ended by itself."""
    is_overdue: bool = False
    """Whether it was."""
    oom_kills: int | None = None
    """`processes.out_of_memory_kills` when it started."""
    _unread: bytes = b""

    def read(self) -> None:
        """Take in what the child told since."""
        while True:
            try:
                received = os.read(self.journal, 1 << 16)
            except BlockingIOError:
                break
            if not received:
                break
            *lines, self._unread = (self._unread + received).split(b"\n")
            for line in lines:
                self._take(json.loads(line))
        self.address_space_bytes = max(self.address_space_bytes, resources.address_space_bytes(self.pid))

    def _take(self, entry: dict[str, str | int]) -> None:
        if "scratch" in entry:
            self.folders.append(Path(str(entry["scratch"])))
        self.stage = str(entry.get("stage", self.stage))
        if "status" in entry:
            self.status = int(entry["status"])
            self.expect_end(EXIT_SECONDS)

    def expect_end(self, seconds: float) -> None:
        """It has no more to do than end, within this time."""
        deadline = time.monotonic() + seconds
        self.deadline = deadline if self.deadline is None else min(self.deadline, deadline)

    def end_overdue(self) -> None:
        """Kill it and what it has started, when its time is over."""
        if self.deadline is not None and not self.is_overdue and time.monotonic() > self.deadline:
            self.is_overdue = True
            kill_tree(self.pid)


def supervise(work: Callable[[Journal], int]) -> int:
    """Do a command in a child process; in the child too, this returns its exit status.

    To be called from a process with one thread, before anything large is loaded.

    Args:
        work: the command, to its very end; whatever happens in the process after it has returned does not count.

    Returns:
        The exit status: the command's own, or 2 or 70 where it died without one.

    Raises:
        OSError: no file, folder or process can be made for it.
    """
    passed_on = {number for number in PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN}
    temporary = Path(tempfile.mkdtemp(prefix="vamc-"))
    try:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        kills = out_of_memory_kills()
        # In the parent they stay blocked: it takes them one by one while it waits, and then only has to end.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {*passed_on, signal.SIGCHLD})
        parent = os.getpid()
        pid = os.fork()
    except BaseException:
        temporary.rmdir()
        raise
    if pid == 0:
        os.close(reader)
        die_with_parent(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)  # for processes that it starts, too
        journal = Journal(writer)
        status = work(journal)
        journal.done(status)
        return status
    os.close(writer)
    _adopt_orphans()
    child = _Child(pid, reader, [temporary], oom_kills=kills)
    try:
        return _end(child, _wait(child, passed_on))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _adopt_orphans() -> None:
    """Become the parent of what the child had started, should it die: only so can all of it be found and ended."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _wait(child: _Child, passed_on: set[signal.Signals]) -> int:
    """Wait for the child's end, and pass signals on; its status as `os.wait` gives it."""
    look = LOOK_SECONDS if resources.limit_of(resource.RLIMIT_AS) is None else LIMITED_LOOK_SECONDS
    while True:
        patience = look if child.deadline is None else min(look, LAST_LOOK_SECONDS)
        received = signal.sigtimedwait({*passed_on, signal.SIGCHLD}, patience)
        child.read()
        if received is not None and received.si_signo != signal.SIGCHLD:
            child.interrupted_by = received.si_signo
            child.expect_end(PATIENCE_SECONDS)
            if received.si_code <= 0:  # sent by a process; what a terminal sends, the child gets too
                os.kill(child.pid, received.si_signo)
        pid, wait_status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid == child.pid:
            child.peak_bytes = usage.ru_maxrss * 1024
            child.read()
            return wait_status
        child.end_overdue()


def _end(child: _Child, wait_status: int) -> int:
    """The exit status of a child that is gone; tidies up where it could not do so itself."""
    _end_orphans()
    if child.status is not None:
        # OpenBLAS sends itself SIGINT where it cannot start a thread; Ctrl-C would have reached this process too.
        lack = _lack(child) if child.status == EXIT_INTERRUPTED and child.interrupted_by is None else None
        if lack is not None:
            say(f"vamc: error: {lack}")
        return child.status if lack is None else EXIT_USER_ERROR
    if sys.stderr.isatty():
        print(_SHOW_CURSOR, end="", file=sys.stderr)  # a progress bar may have been on the screen
    try:
        return _report(child, os.waitstatus_to_exitcode(wait_status))
    finally:
        for folder in child.folders:
            shutil.rmtree(folder, ignore_errors=True)


def _end_orphans() -> None:
    """End what the child had started and left; its resource tracker has a moment to remove what they held."""
    deadline = time.monotonic() + TRACKER_SECONDS
    while orphans := living_children(os.getpid()):
        for orphan in orphans:
            kill_tree(orphan)
        if time.monotonic() > deadline:
            for orphan in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan, signal.SIGKILL)
            break
        time.sleep(0.01)


def _report(child: _Child, exit_code: int) -> int:
    """Say why the child died without a word; the exit status."""
    if child.interrupted_by is not None and (child.is_overdue or -exit_code == child.interrupted_by):
        if child.is_overdue:
            say("vamc: interrupted")
        return 128 + child.interrupted_by
    lack = _explain(child, exit_code)
    if lack is not None:
        say(f"vamc: error: {lack}")
        return EXIT_USER_ERROR
    stage = f" in the stage {child.stage!r}" if child.stage else ""
    say(f"vamc: the command ended without a word{stage} ({_how(exit_code)})")
    say("vamc: this is a bug in vamc; please report it with the lines above and your config")
    return EXIT_INTERNAL_ERROR


def _how(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit status {exit_code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-exit_code).name
    return f"signal {-exit_code}"


def _explain(child: _Child, exit_code: int) -> UserError | None:
    """What ran out; None where it looks like our own mistake."""
    stage = f" in the stage {child.stage!r}" if child.stage else ""
    if exit_code == -signal.SIGKILL:
        return _killed(child, stage)
    if exit_code in (-signal.SIGXCPU, -signal.SIGXFSZ) and not _asked_for_memory_for_ever(exit_code):
        option = "-t" if exit_code == -signal.SIGXCPU else "-f"
        return UserError(
            f"the limit of `ulimit {option}` was reached{stage} ({_how(exit_code)})",
            fix=f"ulimit {option} unlimited",
        )
    lack = _lack(child)
    if lack is not None:
        return UserError(f"{lack.found} ({_how(exit_code)})", expected=lack.expected, fix=lack.fix)
    if exit_code == -signal.SIGBUS:
        return UserError(
            f"a mapped file could not be read or written{stage} (SIGBUS)",
            expected="files that keep their length while they are used, on a disk without errors",
            fix="check that nothing else writes the checkpoint, and the system's log for errors of the disk",
        )
    return None


def _asked_for_memory_for_ever(exit_code: int) -> bool:
    """Whether a limit on CPU time was that of `resources.load_numpy`, and no user's."""
    has_own_limit = resources.limit_of(resource.RLIMIT_CPU) is not None
    return exit_code == -signal.SIGXCPU and resources.limit_of(resource.RLIMIT_AS) is not None and not has_own_limit


def _lack(child: _Child) -> UserError | None:
    return resources.find_lack(child.folders, child.address_space_bytes, stage=child.stage)


def _killed(child: _Child, stage: str) -> UserError:
    now = out_of_memory_kills()
    by_system = child.oom_kills is not None and now is not None and now > child.oom_kills
    who = "the system ended the command because memory ran out" if by_system else "the command was killed (SIGKILL)"
    return UserError(
        f"{who}{stage}; it had used up to {resources.size(child.peak_bytes)}",
        expected="enough memory: with too little, Linux kills the process that uses most",
        fix="give the machine or container more memory, end other programs, or set workspace.workers to 1; "
        "`dmesg` says whether Linux did it",
    )
