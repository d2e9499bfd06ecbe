"""Checks that passed on this machine, in small files of the user's cache, so that they need not run again.

Losing an entry costs a check, never a wrong answer: what cannot be read counts as empty, what cannot be written is
left. Processes that write at the same time take turns.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

Kind = Literal["self_tests", "file_contents"]
"""What was checked; each kind has a file of its own."""
MAX_ENTRIES = 500
"""The oldest ones beyond that are dropped."""
_TURN_SECONDS = 1.0
"""How long to wait for another process; then two may write at once, and an entry may be lost."""


def cache_file(kind: Kind) -> Path | None:
    """`$XDG_CACHE_HOME/vamc/KIND.json`, by default in ~/.cache; None for a user without a home."""
    folder = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(folder) if Path(folder).is_absolute() else Path.home() / ".cache"  # as the XDG base directory says
    except RuntimeError:
        return None
    return base / "vamc" / f"{kind}.json"


def has_passed(kind: Kind, key: str) -> bool:
    """Whether the check with this key is known to have passed here."""
    file = cache_file(kind)
    return file is not None and key in _read(file)


def remember(kind: Kind, key: str, note: str) -> None:
    """Record that a check passed.

    Args:
        kind: what was checked.
        key: names what exactly, and where.
        note: the same for people who look into the file.
    """
    file = cache_file(kind)
    if file is None:
        return
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with _turn(file.parent):
            entries = _read(file)
            entries.pop(key, None)
            entries[key] = note
            content = {"passed": dict(list(entries.items())[-MAX_ENTRIES:])}
            _write(file, json.dumps(content, indent=1, ensure_ascii=True) + "\n")


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing at the same time, for as long as they can be waited for."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + _TURN_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:  # taken, or a file system without locks
                if time.monotonic() > deadline:
                    break
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _read(file: Path) -> dict[str, Any]:
    """Entries by key, oldest first."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    entries = content.get("passed") if isinstance(content, dict) else None
    return entries if isinstance(entries, dict) else {}


def _write(file: Path, text: str) -> None:
    """Replace the file in one step: readers see the old one or the new one, whole."""
    number, name = tempfile.mkstemp(dir=file.parent, prefix=f"{file.name}.")
    try:
        with os.fdopen(number, "w", encoding="utf-8") as new:
            new.write(text)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink()
        raise
