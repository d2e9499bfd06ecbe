"""Self-tests that passed on this machine, in a small file of the user's cache.

Losing it costs a test, never a wrong answer: what cannot be read counts as empty, what cannot be written is left. Of
two processes that write at the same time one entry may be lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

FILE_NAME = "self_tests.json"
MAX_ENTRIES = 200
"""The oldest ones beyond that are dropped."""


def cache_file() -> Path | None:
    """`$XDG_CACHE_HOME/vamc/self_tests.json`, by default in ~/.cache; None for a user without a home."""
    folder = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(folder) if Path(folder).is_absolute() else Path.home() / ".cache"  # as the XDG base directory says
    except RuntimeError:
        return None
    return base / "vamc" / FILE_NAME


def has_passed(key: str) -> bool:
    """Whether the test with this key is known to have passed here."""
    file = cache_file()
    return file is not None and key in _read(file)


def remember(key: str, note: str) -> None:
    """Record that a test passed.

    Args:
        key: names what was tested, and where.
        note: the same for people who look into the file.
    """
    file = cache_file()
    if file is None:
        return
    entries = _read(file)
    entries.pop(key, None)
    entries[key] = note
    content = {"passed": dict(list(entries.items())[-MAX_ENTRIES:])}
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


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
