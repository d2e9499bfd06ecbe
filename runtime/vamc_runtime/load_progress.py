"""Progress of loading weights, on a terminal, when it takes longer than a moment."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

MOMENT_SECONDS = 0.5


class LoadProgress:
    """A bar on standard error that appears after a moment and leaves nothing behind; nothing without a terminal.

    Use as a context manager around opening a runstream; `on_load` is the callback.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._progress: Progress | None = None
        self._task: TaskID

    def __enter__(self) -> LoadProgress:
        self._started = time.monotonic()
        return self

    def on_load(self, done_bytes: int, total_bytes: int) -> None:
        """See `weights_memory.OnLoad`."""
        if self._progress is None:
            if time.monotonic() - self._started < MOMENT_SECONDS or not sys.stderr.isatty():
                return
            self._show(total_bytes)
        if self._progress is not None:
            self._progress.update(self._task, completed=done_bytes)

    def _show(self, total_bytes: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        self._progress = Progress(
            TextColumn("loading weights"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("loading weights", total=total_bytes)
        self._progress.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
