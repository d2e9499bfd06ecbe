"""Publishing a runstream: built beside its place, then renamed into it.

Whatever stops a build (an error, Ctrl-C, a full disk), the place holds either the old runstream or nothing. What a
killed build leaves behind is removed by the next one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from vamc_compiler.stages import Reporter, SilentReporter
from vamc_runtime import manifest
from vamc_runtime.errors import UserError

MAX_PID_DIGITS = 10


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove_leftovers(place: Path) -> None:
    """Tidy up after builds of this runstream that were killed: what they replaced comes back, the rest goes."""
    prefix = f".{place.name}."
    for leftover in place.parent.iterdir():
        kind, _, pid = leftover.name.removeprefix(prefix).rpartition("-")
        if not leftover.name.startswith(prefix) or kind not in ("building", "replaced") or not _is_pid(pid):
            continue
        if _is_running(int(pid)):
            continue
        if kind == "replaced" and not place.exists():
            leftover.rename(place)  # killed between the two renames
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def _is_pid(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < MAX_PID_DIGITS


def remove_dead(folder: Path, prefix: str) -> None:
    """Remove folders named `<prefix><pid>-...` whose process was killed and could not do so itself."""
    for leftover in folder.iterdir():
        pid = leftover.name.removeprefix(prefix).partition("-")[0]
        if leftover.name.startswith(prefix) and _is_pid(pid) and not _is_running(int(pid)):
            shutil.rmtree(leftover, ignore_errors=True)


def check_place(place: Path) -> None:
    """Refuse to replace anything that is not a runstream.

    Raises:
        UserError: the place, or a folder above it, is taken by something else or cannot be written.
    """
    if place.exists() and not (place / manifest.FILE_NAME).is_file():
        raise UserError(
            f"{place} exists and is not a runstream",
            expected="a free place, or an earlier runstream to replace",
            fix="move it away, or change name or workspace.path",
        )
    above = next(parent for parent in place.parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"{above} cannot be written", fix="change workspace.path, or the folder's permissions")


@contextlib.contextmanager
def staging(place: Path, reporter: Reporter | None = None) -> Iterator[Path]:
    """A folder to build in; it becomes `place` when the body ends well and disappears when it does not.

    Args:
        place: where the runstream is to be.
        reporter: told about the folder, for the case that this process cannot remove it.
    """
    check_place(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(place)
    building = place.with_name(f".{place.name}.building-{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    (reporter or SilentReporter()).scratch(building)
    building.mkdir()
    try:
        yield building
        _move_into_place(building, place)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _move_into_place(building: Path, place: Path) -> None:
    if not place.exists():
        building.rename(place)
        return
    replaced = place.with_name(f".{place.name}.replaced-{os.getpid()}")
    place.rename(replaced)
    try:
        building.rename(place)
    except BaseException:
        replaced.rename(place)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
