"""Progress of a build in a terminal: a moving line for the running stage, a line with its time for each past one."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from vamc_runtime.printable import printable
from vamc_runtime.supervise import Journal

NAME_WIDTH = 40


def shows_symbols(console: Console) -> bool:
    """Whether ticks and the like can be written there as they are."""
    return console.encoding.lower().startswith("utf")


def mark(passed: bool, console: Console) -> Text:
    """A tick or a cross; `+` and `X` where the output cannot show them."""
    symbols = ("✓", "✗") if shows_symbols(console) else ("+", "X")
    return Text(symbols[not passed], style="green" if passed else "bold red")


class TerminalReporter:
    """A `stages.Reporter` that writes to standard error; without a terminal, only the line for each past stage.

    Args:
        journal: told what this process is doing, where another one watches it.
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self.console = Console(file=sys.stderr, highlight=False)
        self._journal = journal
        self._live: Live | None = None
        self._stage = ""
        self._warned: set[str] = set()

    def _render(self, done: int = 0, total: int = 0, unit: str = "") -> Table:
        line = Table.grid(padding=(0, 1))
        dots = "dots" if shows_symbols(self.console) else "line"
        cells: list[Spinner | Text | ProgressBar] = [
            Spinner(dots),
            Text(f"{self._stage:<{NAME_WIDTH}}"),
        ]
        if total:
            cells += [ProgressBar(total, done, width=30), Text(f"{100 * done // total:3d} % of {unit}")]
        line.add_row(*cells)
        return line

    def begin(self, stage: str) -> None:
        """Show the stage as running."""
        self._stage = printable(stage)
        if self._journal is not None:
            self._journal.stage(stage)
        if self.console.is_terminal:
            self._live = Live(self._render(), console=self.console, transient=True, refresh_per_second=8)
            self._live.start()

    def progress(self, done: int, total: int, unit: str) -> None:
        """Move the running stage's bar."""
        if self._live is not None:
            self._live.update(self._render(done, total, unit))

    def end(self, stage: str, seconds: float, note: str) -> None:
        """Leave one line for the past stage."""
        self.close()
        text = printable(f" {stage:<{NAME_WIDTH}}{seconds:7.1f} s   {note}").rstrip()
        line = Text.assemble(mark(True, self.console), text)
        self.console.print(line, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Leave a warning above the running stage; what was said before is not said again."""
        if message in self._warned:
            return
        self._warned.add(message)
        self.console.print(Text.assemble(("warning: ", "yellow"), printable(message)), soft_wrap=True)

    def scratch(self, folder: Path) -> None:
        """Have the folder removed should this process die."""
        if self._journal is not None:
            self._journal.scratch(folder)

    def close(self) -> None:
        """Stop the moving line, also when a stage failed."""
        if self._live is not None:
            self._live.stop()
            self._live = None
