"""Running the command line, and what its outcome must look like."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
CHECKPOINTS = REPOSITORY / "build_in" / "checkpoints"
VAMC = Path(sys.executable).parent / "vamc"


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    output: str
    errors: str


def run_process(*command: object, **options: Any) -> Outcome:
    """A command as a process of its own."""
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=300, check=False, **options
    )
    return Outcome(result.returncode, result.stdout, result.stderr)


def assert_user_error(outcome: Outcome, *parts: str) -> None:
    """One readable message that names every part, exit status 2, no traceback."""
    assert outcome.status == 2, outcome.errors
    assert "Traceback" not in outcome.errors
    assert outcome.errors.count("vamc: error:") == 1
    for part in parts:
        assert part in outcome.errors, f"{part!r} is not in:\n{outcome.errors}"


def assert_nothing_published(workspace: Path) -> None:
    """No runstream, and nothing half written either."""
    assert not workspace.exists() or not list(workspace.iterdir())
