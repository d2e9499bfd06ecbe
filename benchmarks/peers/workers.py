"""Worker processes, seen from the benchmark: started, asked one thing at a time, stopped in between."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from entries import Entry

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]


class ContestantError(RuntimeError):
    """A contestant failed; the first line of the text says where to look."""


def environment_python(entry: Entry) -> Path:
    """The interpreter of an entry's environment, which may not exist."""
    folder = REPOSITORY / ".venv" if entry.environment == "vamc" else HERE / ".envs" / entry.environment
    return folder / "bin" / "python"


def how_to_install(entry: Entry) -> str | None:
    """None when the entry's environment is complete, else what to do."""
    if entry.environment == "vamc":
        return None if environment_python(entry).is_file() else "make setup"
    done = (HERE / ".envs" / entry.environment / ".installed").is_file()
    return None if done else f"python benchmarks/peers/install.py {entry.environment}"


class Worker:
    """A process for one entry. A context manager: the process ends with it.

    Args:
        name, entry: an item of `ENTRIES`.
        cores: where it may run, one thread each.
        log: file for what it prints.
        niceness: added to the priority; 19 while converting models, 0 while measuring.
    """

    def __init__(self, name: str, entry: Entry, cores: list[int], log: Path, niceness: int = 0) -> None:
        self._name, self._entry, self._cores, self._log, self._niceness = name, entry, cores, log, niceness
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Worker:
        threads = str(len(self._cores))
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        variables = {**os.environ, "OMP_NUM_THREADS": threads, **offline, **self._entry.variables}
        cores = ",".join(map(str, self._cores))
        command = [str(environment_python(self._entry)), str(HERE / "worker.py"), self._name, cores]
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("a") as output:
            self._process = subprocess.Popen(
                ["nice", "-n", str(self._niceness), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                env=variables,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._running(), None
        process.kill()  # works on a stopped process too; nothing of it is worth keeping
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        process.wait()

    @property
    def pid(self) -> int:
        """The process."""
        return self._running().pid

    def ask(self, do: str, **arguments: Any) -> Any:
        """Send a request and wait for its answer; before and after, the process stands still.

        Stopping it makes sure that no idle thread pool spins while another contestant is measured.

        Raises:
            ContestantError: it failed or ended.
        """
        process = self._running()
        stdin, stdout = self._stream(process.stdin), self._stream(process.stdout)
        process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):
            stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            stdin.flush()
        line = stdout.readline()
        if not line:
            code = process.wait()
            tail = "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise ContestantError(f"{do} failed: the process ended with {code}; the end of {self._log}:\n{tail}")
        process.send_signal(signal.SIGSTOP)
        reply = json.loads(line)
        if "error" in reply:
            raise ContestantError(f"{do} failed, see the end of {self._log}: {reply['error']}")
        return reply["ok"]

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise RuntimeError("Worker is a context manager")
        return self._process

    @staticmethod
    def _stream(stream: TextIO | Any) -> TextIO:
        assert stream is not None, "opened with pipes"
        return stream
