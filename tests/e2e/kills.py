"""Kills processes of vamc at random moments and looks what is left: `make kills`.

The long run of what test_kills.py does a little of. Every process that a case starts carries a mark in its
environment, so that none can hide by changing its parent. Leftovers are looked for in /dev/shm and among processes; on
a machine that others use, give it a /dev/shm of its own (needs root):

    unshare -m sh -c 'mount -t tmpfs tmpfs /dev/shm; exec python -m kills ...'
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MARK = "VAMC_KILL_MARK"
SHARED_MEMORY = Path("/dev/shm")
VAMC = Path(sys.executable).parent / "vamc"
MPIEXEC = Path(sys.executable).parent / "mpiexec"
KILL = (signal.SIGKILL,)
ENDINGS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
APPEAR_SECONDS = 60.0
LEFT_SECONDS = 2.0
"""After so long nothing may be left."""
GIVE_UP_SECONDS = 15.0
"""How long leftovers are waited for, to tell slow ends from none."""


@dataclass(frozen=True)
class Kind:
    """A kind of process to kill."""

    name: str
    command: Sequence[str]
    """What is started."""
    chosen: Callable[[psutil.Process], bool]
    """Which of its processes is killed; False for the others."""
    signals: Sequence[signal.Signals]
    busy_seconds: float
    """The moment is chosen evenly from the process's start up to so long after it."""
    whole_answer: bytes = b""
    """Where the program succeeds, its standard output holds this."""
    leaves_names: bool = False
    """Names in /dev/shm may remain: a rank of the user's own mpiexec was killed before MPI_Init was over."""


@dataclass
class Outcome:
    """What one kill left."""

    sent: str = ""
    """The signal, and how long after the process was seen."""
    seconds: float = 0.0
    """Until no process was left."""
    processes: list[str] = field(default_factory=list)
    """Alive after LEFT_SECONDS."""
    names: list[str] = field(default_factory=list)
    """New in /dev/shm, used by nobody."""
    status: int | None = None
    answer: bytes = b""
    """What the program wrote to its standard output."""
    errors: str = ""

    def fault(self, kind: Kind) -> str:
        """What is wrong; nothing when the kill left nothing and was not hidden."""
        if self.processes:
            return "processes are left"
        if self.names and not kind.leaves_names:
            return "shared memory is left"
        if self.status == 0 and kind.whole_answer not in self.answer:
            return "it says that it succeeded, with a part of its answer"
        return "it says that this is a bug" if "this is a bug" in self.errors else ""


def _marked(mark: str) -> list[psutil.Process]:
    """Processes of a case that have not ended."""
    entry = f"{MARK}={mark}".encode()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            if entry in environment and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _shared_names() -> set[str]:
    return {path.name for path in SHARED_MEMORY.iterdir()}


def _unused(names: set[str]) -> list[str]:
    """Names that no process has mapped."""
    used: set[str] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            used |= {name for name in names if f"{SHARED_MEMORY}/{name}\n" in maps}
    return sorted(names - used)


def _wait_for(kind: Kind, mark: str, program: subprocess.Popen[bytes], rng: random.Random) -> psutil.Process | None:
    """The process to kill, once it is there; None when the program ended first."""
    deadline = time.monotonic() + APPEAR_SECONDS
    while time.monotonic() < deadline and program.poll() is None:
        for process in rng.sample(found := _marked(mark), len(found)):
            with contextlib.suppress(psutil.Error, OSError):
                if kind.chosen(process):
                    return process
        time.sleep(0.01)
    return None


def kill_once(kind: Kind, rng: random.Random) -> Outcome | None:
    """Start, kill at a random moment, look; None when the process did not come or had ended by then."""
    for number in ENDINGS[1:]:
        if signal.getsignal(number) is signal.SIG_IGN:  # under nohup, or in the background: children would inherit it
            signal.signal(number, signal.SIG_DFL)
    mark = uuid.uuid4().hex
    before = _shared_names()
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as answer:
        program = subprocess.Popen(
            kind.command,
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=errors,
            env={**os.environ, MARK: mark},
            start_new_session=True,
        )
        try:
            target = _wait_for(kind, mark, program, rng)
            if target is None:
                return None
            moment, number = rng.uniform(0, kind.busy_seconds), rng.choice(kind.signals)
            time.sleep(moment)
            if not target.is_running() or target.status() == psutil.STATUS_ZOMBIE:
                return None
            target.send_signal(number)
            outcome = _look(program, mark, before)
            outcome.sent = f"{number.name} after {moment:.2f} s"
        finally:
            for process in _marked(mark):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            program.wait()
        errors.seek(0)
        outcome.errors = errors.read().decode(errors="replace")
        answer.seek(0)
        outcome.answer = answer.read()
    outcome.status = program.returncode
    return outcome


def _look(program: subprocess.Popen[bytes], mark: str, before: set[str]) -> Outcome:
    killed = time.monotonic()
    outcome = Outcome()
    looked = False
    while (left := _marked(mark)) and time.monotonic() - killed < GIVE_UP_SECONDS:
        program.poll()
        if time.monotonic() - killed > LEFT_SECONDS and not looked:
            looked = True
            outcome.processes = [_describe(process) for process in left]
        time.sleep(0.02)
    outcome.seconds = time.monotonic() - killed
    outcome.names = _unused(_shared_names() - before)
    return outcome


def _describe(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join([str(process.pid), process.status(), *process.cmdline()])[:150]
    return "ended while it was looked at"


def _is_rank(number: int) -> Callable[[psutil.Process], bool]:
    return lambda process: process.environ().get("PMI_RANK") == str(number)


def _is_named(name: str) -> Callable[[psutil.Process], bool]:
    def chosen(process: psutil.Process) -> bool:
        parent = process.parent()  # of the same name: forked, and about to be something else
        return process.name().startswith(name) and (parent is None or not parent.name().startswith(name))

    return chosen


def _is_program(process: psutil.Process) -> bool:
    return "vamc" in process.name() and "PMI_RANK" not in process.environ()


def run_command(runstream: Path) -> list[str]:
    """`vamc run` that goes on for longer than any kill waits."""
    options = ("--temperature", "0", "--ignore-eos", "--max-new-tokens", "900")
    return [str(VAMC), "run", str(runstream), *(["--prompt", "The capital of France"] * 32), *options]


RATES = b"tok/s"
"""Which `vamc run` prints when all is generated."""


def kinds_of_running(one: Path, two: Path) -> Iterator[Kind]:
    """Every kind of process of running runstreams of one rank and of two."""
    yield Kind("program of one rank", run_command(one), _is_program, ENDINGS, 2.0, RATES)
    yield Kind("program of two ranks", run_command(two), _is_program, ENDINGS, 3.0, RATES)
    for name, chosen in (
        ("mpiexec", _is_named("mpiexec")),
        ("hydra proxy", _is_named("hydra_pmi")),
        ("rank 0", _is_rank(0)),
        ("rank 1", _is_rank(1)),
    ):
        yield Kind(name, run_command(two), chosen, KILL, 2.5, RATES)
    by_user = [str(MPIEXEC), "-n", "2", *run_command(two)]
    yield Kind("user's mpiexec", by_user, _is_named("mpiexec"), ENDINGS, 3.0)
    yield Kind("user's hydra proxy", by_user, _is_named("hydra_pmi"), KILL, 2.5, leaves_names=True)
    for number in (0, 1):
        yield Kind(f"user's rank {number}", by_user, _is_rank(number), KILL, 2.5, leaves_names=True)


PARALLEL_COMPILE = """
import sys
from vamc_compiler import graph
from vamc_compiler.weights import writer
from vamc_runtime.cli import main
graph.PARALLEL_LAYERS = writer.SMALL_JOB_ELEMENTS = 0
if __name__ == "__main__":
    sys.exit(main())
"""
"""`vamc`, whose small models are compiled by several processes as large ones are."""


def kinds_of_compiling(config: Path, two: Path, folder: Path) -> Iterator[Kind]:
    """Every kind of process of compiling and verifying."""
    program = folder / "vamc_parallel.py"
    program.write_text(PARALLEL_COMPILE)
    compiling = [sys.executable, str(program), "compile", str(config), "--set", f"workspace.path={folder}"]
    compiling += ["--set", "workspace.workers=2"]
    yield Kind("compile", compiling, lambda process: str(program) in process.cmdline(), ENDINGS, 18.0)
    yield Kind("worker of compile", compiling, _is_worker, KILL, 2.0)
    yield Kind("verify", [str(VAMC), "verify", str(two)], _is_program, ENDINGS, 20.0)


def _is_worker(process: psutil.Process) -> bool:
    return "--multiprocessing-fork" in process.cmdline()


def main() -> int:
    """Run the command line; returns 1 at any fault."""
    parser = argparse.ArgumentParser(prog="python -m kills", description="Kill processes at random moments.")
    parser.add_argument("one", type=Path, metavar="ONE", help="runstream of one rank")
    parser.add_argument("two", type=Path, metavar="TWO", help="runstream of two ranks")
    parser.add_argument("--config", type=Path, help="build config: kill what compiles it and verifies TWO, too")
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="of each kind (default 50)")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--only", metavar="TEXT", default="", help="kinds whose name holds this")
    options = parser.parse_args()
    failed = False
    folder = Path(tempfile.mkdtemp(prefix="vamc-kills-"))
    kinds = list(kinds_of_running(options.one, options.two))
    if options.config is not None:
        kinds += kinds_of_compiling(options.config, options.two, folder)
    for kind in kinds:
        if options.only not in kind.name:
            continue
        seconds, statuses = [], Counter[int | None]()
        num_kills = num_bad = num_noisy = 0
        for case in itertools.count():
            if num_kills == options.kills or case == 3 * options.kills:
                break
            outcome = kill_once(kind, random.Random(f"{kind.name} {options.seed} {case}"))
            if outcome is None:
                continue
            num_kills += 1
            statuses[outcome.status] += 1
            seconds.append(outcome.seconds)
            fault = outcome.fault(kind)
            is_noisy = "Traceback" in outcome.errors
            num_bad += bool(fault)
            num_noisy += is_noisy
            if fault or is_noisy:
                outcome.answer, outcome.errors = outcome.answer[-200:], outcome.errors[-700:]
                print(kind.name, case, fault, outcome, file=sys.stderr)
        print(
            f"{kind.name}: {num_kills} kills, {num_bad} faults, {num_noisy} showed a traceback; "
            f"slowest end {max(seconds, default=0):.2f} s; statuses {dict(statuses)}",
            flush=True,
        )
        failed = failed or bool(num_bad)
    shutil.rmtree(folder)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
