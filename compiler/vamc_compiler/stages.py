"""The stages of a build as the user sees them: named, timed, and naming themselves when they fail."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from vamc_runtime.errors import UserError


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
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Note]:
        """Time the body as the stage `name`.

        Raises:
            StageFailedError: the body raised anything but a UserError or a lack of disk space.
        """
        self.reporter.begin(name)
        start = time.perf_counter()
        note = Note()
        try:
            yield note
        except (UserError, OSError):
            raise
        except Exception as error:
            raise StageFailedError(f"the stage {name!r} failed: {type(error).__name__}: {error}") from error
        self.seconds[name] = time.perf_counter() - start
        self.reporter.end(name, self.seconds[name], note.text)
