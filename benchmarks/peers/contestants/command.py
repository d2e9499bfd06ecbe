"""Running a converter or compiler that is a program of its own."""

from __future__ import annotations

import shlex
import subprocess


def run_command(*command: object) -> None:
    """Run a command; its output goes to the worker's log.

    Raises:
        RuntimeError: it failed.
    """
    words = [str(word) for word in command]
    code = subprocess.run(words).returncode
    if code:
        raise RuntimeError(f"`{shlex.join(words)}` ended with {code}")
