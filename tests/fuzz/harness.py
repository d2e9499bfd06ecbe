"""Runs the cases of a target in worker processes and finds faults: exceptions, crashes, hangs, growth."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from fuzz.target import Target, load_target
from fuzz.worker import Began, Ended, Ready, work

MAX_FAULTS = 20
"""A target with more is not run on."""
_PREPARE_SECONDS = 300.0
_GLANCE_SECONDS = 0.1

OnCase = Callable[[], None]


@dataclass(frozen=True)
class Fault:
    """A case that went wrong."""

    case: int
    """-1: preparing went wrong."""
    problem: str


@dataclass
class Result:
    """What the cases of a target did."""

    num_accepted: int = 0
    num_refused: int = 0
    faults: list[Fault] = field(default_factory=list)

    def add(self, other: Result) -> None:
        """Take in what another worker found."""
        self.num_accepted += other.num_accepted
        self.num_refused += other.num_refused
        self.faults += other.faults


def run_target(
    place: str, num_cases: int, *, seed: int = 0, num_workers: int = 1, on_case: OnCase = lambda: None
) -> Result:
    """Run cases 0 .. num_cases - 1, shared among workers.

    Args:
        place: see `target.load_target`.
        num_cases: how many.
        seed: another one gives other cases.
        num_workers: processes.
        on_case: called after every case.
    """
    shares = [range(first, num_cases, num_workers) for first in range(num_workers)]
    result = Result()
    with ThreadPoolExecutor(num_workers) as pool:
        for part in pool.map(lambda cases: _run_share(place, cases, seed, on_case), shares):
            result.add(part)
    result.faults.sort(key=lambda fault: fault.case)
    return result


def _run_share(place: str, cases: range, seed: int, on_case: OnCase) -> Result:
    """Run cases in one worker at a time; one that died is followed by another that goes on behind the case."""
    result = Result()
    while cases and len(result.faults) < MAX_FAULTS:
        with tempfile.TemporaryDirectory(prefix="vamc-fuzz-") as folder, _Worker(place, folder, cases, seed) as worker:
            last = worker.watch(result, on_case)
        if last is None:
            break
        cases = cases[cases.index(last) + 1 :]
    return result


class _Worker:
    """One worker process. Use as a context manager, which ends it."""

    def __init__(self, place: str, folder: str, cases: range, seed: int) -> None:
        self._target: Target = load_target(place)
        self._cases = cases
        self._output = Path(folder) / "output.txt"
        context = multiprocessing.get_context("spawn")
        self._connection: Connection
        self._connection, theirs = context.Pipe(duplex=False)
        self._process: BaseProcess = context.Process(target=work, args=(theirs, place, folder, seed, cases))
        self._process.start()
        theirs.close()

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()

    def watch(self, result: Result, on_case: OnCase) -> int | None:
        """Record what happens, until all cases are done or the worker dies; returns the case it died of, if any."""
        case, limit_seconds, base_bytes = -1, _PREPARE_SECONDS, None
        since = time.monotonic()
        while True:
            if not self._connection.poll(_GLANCE_SECONDS):
                size = _resident_bytes(self._process.pid)
                if time.monotonic() - since > limit_seconds:
                    return self._died(result, case, f"no end after {limit_seconds:.0f} s")
                if base_bytes is not None and size - base_bytes > self._target.max_growth_bytes:
                    return self._died(result, case, f"grew by {(size - base_bytes) / 2**20:.0f} MiB")
                continue
            try:
                message = self._connection.recv()
            except EOFError:
                self._process.join()
                return self._died(result, case, f"the worker died: {_describe_exit(self._process.exitcode)}")
            since = time.monotonic()
            if isinstance(message, Ready):
                base_bytes, limit_seconds = _resident_bytes(self._process.pid), self._target.max_seconds
            elif isinstance(message, Began):
                case = message.case
            else:
                assert isinstance(message, Ended), message
                _record(result, message)
                on_case()
                if message.case == self._cases[-1] or len(result.faults) >= MAX_FAULTS:
                    return None

    def _died(self, result: Result, case: int, problem: str) -> int | None:
        """Record a fault that ended the worker; None where no case had begun, so that none can follow."""
        output = self._output.read_text(errors="replace")[-2000:] if self._output.exists() else ""
        result.faults.append(Fault(case, f"{problem}\n{output}".rstrip()))
        return None if case < 0 else case


def _record(result: Result, ended: Ended) -> None:
    if ended.problem:
        result.faults.append(Fault(ended.case, ended.problem))
    elif ended.refused:
        result.num_refused += 1
    else:
        result.num_accepted += 1


def _resident_bytes(pid: int | None) -> int:
    """Memory of a process, 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit status {code}"
