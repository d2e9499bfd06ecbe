"""The stages of a build as the user sees them: named, timed, and naming themselves when they fail."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vamc_runtime.errors import UserError
from vamc_runtime.resources import explain


class Reporter(Protocol):
    """Where progress goes: a terminal, a log, or nowhere."""

    def begin(self, stage: str) -> None:
        """A stage starts."""

    def progress(self, done: int, total: int, unit: str) -> None:
        """The running stage has done `done` of `total`."""

    def end(self, stage: str, seconds: float, note: str) -> None:
        """The stage is over; `note` says in a few words what came out."""

    def warn(self, message: str) -> None:
        """Something the user should know, and the build goes on."""

    def scratch(self, folder: Path) -> None:
        """A folder that is about to be filled, and must not be left behind should the process die."""


class SilentReporter:
    """Says nothing; for use as a library."""

    def begin(self, stage: str) -> None:
        """Nothing."""

    def progress(self, done: int, total: int, unit: str) -> None:
        """Nothing."""

    def end(self, stage: str, seconds: float, note: str) -> None:
        """Nothing."""

    def warn(self, message: str) -> None:
        """Nothing."""

    def scratch(self, folder: Path) -> None:
        """Nothing."""


class StageFailedError(RuntimeError):
    """A stage failed for a reason that is not the user's: names the stage, chained to the cause."""


@dataclass
class Note:
    """What a stage has to say at its end."""

    text: str = ""


@dataclass
class Stages:
    """Runs stages and keeps their times."""

    reporter: Reporter
    folder: Path | None = None
    """Where files are written: its disk is named when one is full and the error does not say which."""
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Note]:
        """Time the body as the stage `name`.

        Raises:
            UserError: the body raised one, or the system had no more memory, disk space, files or processes.
            StageFailedError: the body raised another error.
        """
        self.reporter.begin(name)
        start = time.perf_counter()
        note = Note()
        try:
            yield note
        except UserError:
            raise
        except Exception as error:
            lack = explain(error, stage=name, folders=[self.folder] if self.folder else [])
            if lack is not None:
                raise lack from error
            raise StageFailedError(f"the stage {name!r} failed: {type(error).__name__}: {error}") from error
        self.seconds[name] = time.perf_counter() - start
        self.reporter.end(name, self.seconds[name], note.text)
