"""Shared memory of ranks on one host: its names go as soon as every rank has mapped it, so that nothing is left of
ranks that are killed.

MPICH 5.0 keeps two names while ranks run: /dev/shm/mpich_shm_*, and the launcher's description of the machine,
/tmp/hydra_hwloc_xmlfile_*. Ending, it takes them as they are: gone already. UCX, below it, unlinks its segments itself.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

FOLDER = Path("/dev/shm")
_PREFIX = "mpich_"
_TOPOLOGY = "/tmp/hydra_hwloc_xmlfile_"
_LOOK_AGAIN_SECONDS = 0.05


def _mapped_by(process: str) -> set[str]:
    """Names under which a process has MPICH's segments mapped; none where that cannot be read."""
    try:
        lines = Path("/proc", process, "maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    paths = (line.partition("/")[2] for line in lines if f"{FOLDER}/{_PREFIX}" in line)
    return {f"/{path}" for path in paths}


def unlink_names() -> None:
    """Remove the names of this rank's segments; called when every rank of the host has mapped them, or at the end."""
    names = _mapped_by("self")
    launcher = Path("/proc", str(os.getppid()), "fd")
    with contextlib.suppress(OSError):  # a launcher of another user, or none
        for descriptor in launcher.iterdir():
            with contextlib.suppress(OSError):
                names.add(str(descriptor.readlink()))
    for name in names:
        if name.startswith((f"{FOLDER}/{_PREFIX}", _TOPOLOGY)) and not name.endswith(" (deleted)"):
            with contextlib.suppress(OSError):
                Path(name).unlink()


def sweep(started: float) -> None:
    """Remove segments of ranks that died while they started, before they could do so themselves.

    A segment goes when this user owns it, it is not older than the ranks, and no process maps it, looked at twice.

    Args:
        started: when the ranks were started, in seconds since the epoch.
    """
    left = _unmapped(started)
    if left:
        time.sleep(_LOOK_AGAIN_SECONDS)
        for path in left & _unmapped(started):
            path.unlink(missing_ok=True)


def _unmapped(started: float) -> set[Path]:
    found = set()
    for path in FOLDER.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            facts = path.stat()
            if facts.st_uid == os.geteuid() and facts.st_ctime >= started:
                found.add(path)
    if found:
        processes = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
        found -= {Path(name) for process in processes for name in _mapped_by(process)}
    return found
