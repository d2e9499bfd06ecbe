"""What MPICH leaves on a host under a name: the names go as soon as every rank has what is behind them, so that nothing
is left of ranks that are killed.

MPICH 5.0 keeps two while ranks run: /dev/shm/mpich_*, shared memory, and /tmp/hydra_hwloc_xmlfile_*, the launcher's
description of the machine, which the launcher keeps open. It does not mind that they are gone when it would remove
them. UCX, below it, unlinks its segments as soon as it has made them.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

FOLDER = Path("/dev/shm")
_UCX = f"{FOLDER}/ucx_shm_posix_"
_PREFIXES = (f"{FOLDER}/mpich_", "/tmp/hydra_hwloc_xmlfile_", _UCX)
_LOOK_AGAIN_SECONDS = 0.05


def _used_by(process: str) -> set[Path]:
    """Such files that a process has mapped or open; none where that cannot be read."""
    names: list[str] = []
    folder = Path("/proc", process)
    with contextlib.suppress(OSError):
        lines = (folder / "maps").read_text(encoding="utf-8", errors="replace").splitlines()
        names += ["/" + line.partition("/")[2] for line in lines]
    with contextlib.suppress(OSError):
        for descriptor in (folder / "fd").iterdir():
            with contextlib.suppress(OSError):  # closed since
                names.append(str(descriptor.readlink()))
    return {Path(name) for name in names if name.startswith(_PREFIXES) and not name.endswith(" (deleted)")}


def unlink_names(*, at_the_end: bool = False) -> None:
    """Remove the names of this rank's files.

    Args:
        at_the_end: of this process, at any moment; else every rank of the host has come through MPI_Init.
    """
    for path in _used_by("self") | _used_by(str(os.getppid())):
        if at_the_end or not str(path).startswith(_UCX):
            with contextlib.suppress(OSError):
                path.unlink()


def sweep(started: float) -> None:
    """Remove files of ranks that died while they started, before they could do so themselves.

    A file goes when this user owns it, it is not older than the ranks, and no process uses it, looked at twice.

    Args:
        started: when the ranks were started, in seconds since the epoch.
    """
    left = _unused(started)
    if left:
        time.sleep(_LOOK_AGAIN_SECONDS)
        for path in left & _unused(started):
            path.unlink(missing_ok=True)


def _unused(started: float) -> set[Path]:
    found = set()
    for prefix in map(Path, _PREFIXES):
        for path in prefix.parent.glob(f"{prefix.name}*"):
            with contextlib.suppress(OSError):
                facts = path.stat()
                if facts.st_uid == os.geteuid() and facts.st_ctime >= started:
                    found.add(path)
    if found:
        processes = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
        found -= {path for process in processes for path in _used_by(process)}
    return found
