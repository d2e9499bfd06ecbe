"""What ran out or was refused by the system, as a message: memory, disk, open files, threads, permissions."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import resource
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from vamc_runtime.errors import UserError

PROBE_BYTES = 1 << 20
"""A disk on which a file of this size finds no room is full."""
NEAR_LIMIT, SMALL_REST_BYTES = 0.5, 512 << 20
"""A crash is taken for a lack of address space above this share of what may be used, or with less than this left:
libraries ask for large pieces at a time, and a piece that was refused does not show in what was used."""

LOAD_NUMPY_SECONDS = 5
"""CPU time that loading numpy never takes: 0.1 s is usual, 1 s without byte code."""

_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EIO, errno.ELOOP, errno.ESTALE}
# How C and C++ libraries name the same: their errors arrive as ImportError, RuntimeError or a class of their own.
_PHRASES = {
    "bad_alloc": errno.ENOMEM,
    "memoryerror": errno.ENOMEM,
    "cannot allocate memory": errno.ENOMEM,
    "can't allocate memory": errno.ENOMEM,
    "out of memory": errno.ENOMEM,
    "memory exhausted": errno.ENOMEM,
    "failed to map segment from shared object": errno.ENOMEM,
    "can't start new thread": errno.EAGAIN,
    "resource temporarily unavailable": errno.EAGAIN,
    "no space left on device": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "file too large": errno.EFBIG,
    "too many open files": errno.EMFILE,
    "read-only file system": errno.EROFS,
}


def explain(error: BaseException, *, stage: str = "", folders: Iterable[Path] = ()) -> UserError | None:
    """The message for an error that says what ran out or was refused; None for any other.

    Args:
        error: what was raised; the errors that it was raised from count too.
        stage: the stage of a build in which it was raised.
        folders: where files were being written, for errors that do not name one.
    """
    for cause in _chain(error):
        if isinstance(cause, UserError):
            return None
        number = _number(cause)
        if number is not None:
            file = _file(cause)
            return describe(number, file=file, folders=folders, stage=stage, detail=_detail(cause))
        if isinstance(cause, FileNotFoundError) and "usable temporary directory" in str(cause):
            return _no_temporary_folder()
    return None


def raise_lack(error: BaseException) -> None:
    """Raise the message of `explain` where there is one: before an error is laid at another's door.

    Raises:
        UserError: the error says what ran out or was refused.
    """
    lack = explain(error)
    if lack is not None:
        raise lack from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _number(error: BaseException) -> int | None:
    """The system's number for what is lacking, whatever the class of the error; None for another error."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _WORDS or error.errno in _REFUSED else None
    return number_in(str(error)) if isinstance(error, Exception) else None


def number_in(text: str) -> int | None:
    """The system's number for what a library's message says is lacking; None for another message."""
    lower = text.lower()
    return next((number for phrase, number in _PHRASES.items() if phrase in lower), None)


def _file(error: BaseException) -> Path | None:
    """The file that was written, where the error names it: of a copy, the target."""
    name = None
    if isinstance(error, OSError):
        name = error.filename2 if error.filename2 is not None else error.filename
    return Path(os.fsdecode(name)) if isinstance(name, str | bytes) else None


def _detail(error: BaseException) -> str:
    """What the error says about how much was asked for."""
    text = str(error).strip()
    return text.splitlines()[0] if isinstance(error, MemoryError) and text else ""


def describe(
    number: int, *, file: Path | None = None, folders: Iterable[Path] = (), stage: str = "", detail: str = ""
) -> UserError:
    """The message for one of the system's error numbers; see `explain`."""
    where = f" in the stage {stage!r}" if stage else ""
    if number in _REFUSED:
        place = file or next(iter(folders), None)
        found = f"{place}: {os.strerror(number)}" if place else os.strerror(number)
        return UserError(found + where, fix="check the path and its permissions")
    return _WORDS[number](where + (f" ({detail})" if detail else ""), file, list(folders))


def _memory(where: str, file: Path | None, folders: list[Path]) -> UserError:
    limit = limit_of(resource.RLIMIT_AS)
    if limit is not None:
        allowed, fix = f"more than the {size(limit)} of address space that `ulimit -v` allows", "raise that limit"
    else:
        from vamc_runtime.machine import available_memory_bytes  # every command loads this file, few that one

        allowed = f"more than is free here, {size(available_memory_bytes())} now"
        fix = "end other programs, or use a machine with more"
    return UserError(
        f"memory ran out{where}",
        expected=allowed,
        fix=f"{fix}; less is needed with workspace.workers: 1 (compile, verify) or --kv-cache-tokens (run)",
    )


def _disk(where: str, file: Path | None, folders: list[Path]) -> UserError:
    """`file`'s disk, else the fullest of those in question."""
    above = nearest_folder(file) if file is not None else None
    if above is None:
        above = min((nearest_folder(folder) for folder in folders), key=free_bytes, default=None)
    disk = f"the disk that holds {above}" if above is not None else "a disk"
    left = f", {size(free_bytes(above))} free" if above is not None else ""
    return UserError(
        f"{disk} is full{where}{left}",
        expected="room for what is written; nothing was published",
        fix="free some space, or use another disk (workspace.path for runstreams, TMPDIR for temporary files)",
    )


def _quota(where: str, file: Path | None, folders: list[Path]) -> UserError:
    message = _disk(where, file, folders)
    return UserError(f"your disk quota is used up: {message.found}", expected=message.expected, fix=message.fix)


def _file_size(where: str, file: Path | None, folders: list[Path]) -> UserError:
    limit = limit_of(resource.RLIMIT_FSIZE)
    allowed = "the file system allows" if limit is None else f"the {size(limit)} that `ulimit -f` allows"
    return UserError(
        f"{file or 'a file'} would become larger than {allowed}{where}",
        expected="files as large as the model's weights; nothing was published",
        fix="ulimit -f unlimited" if limit is not None else "use another disk",
    )


def _open_files(where: str, file: Path | None, folders: list[Path]) -> UserError:
    limit = limit_of(resource.RLIMIT_NOFILE)
    return UserError(
        f"too many open files{where}",
        expected=f"more than the {limit} that `ulimit -n` allows",
        fix="ulimit -n 1024, or as many as the system allows",
    )


def _processes(where: str, file: Path | None, folders: list[Path]) -> UserError:
    limits = []
    if (processes := limit_of(resource.RLIMIT_NPROC)) is not None:
        limits.append(f"`ulimit -u` allows {processes} of a user")
    if (address_space := limit_of(resource.RLIMIT_AS)) is not None:
        limits.append(f"`ulimit -v` allows {size(address_space)} of address space, and each takes some")
    return UserError(
        f"no further thread or process can be started{where}",
        expected="; ".join(limits) or "the system's limits (ulimit -u, pids.max of the cgroup) leave room for some",
        fix="raise the limit, or end other programs",
    )


_WORDS: dict[int, Callable[[str, Path | None, list[Path]], UserError]] = {
    errno.ENOMEM: _memory,
    errno.ENOSPC: _disk,
    errno.EDQUOT: _quota,
    errno.EFBIG: _file_size,
    errno.EMFILE: _open_files,
    errno.ENFILE: _open_files,
    errno.EAGAIN: _processes,
}


def _no_temporary_folder() -> UserError:
    named = os.environ.get("TMPDIR")
    return UserError(
        "there is no folder for temporary files" + (f": TMPDIR is {named}" if named else ""),
        expected="TMPDIR, /tmp or the current folder, writable and with some space",
        fix="set TMPDIR to such a folder",
    )


def limit_of(name: int) -> int | None:
    """This process's limit (`resource.RLIMIT_...`); None for no limit."""
    soft = resource.getrlimit(name)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def load_numpy() -> None:
    """Load numpy where address space is limited.

    Its BLAS may ask for memory again and again, for ever, where there is too little (OpenBLAS 0.3.29, numpy 2.2): a
    process in which that takes LOAD_NUMPY_SECONDS of CPU time is ended by SIGXCPU.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    end = math.ceil(time.process_time()) + LOAD_NUMPY_SECONDS
    if soft == resource.RLIM_INFINITY or end < soft:
        resource.setrlimit(resource.RLIMIT_CPU, (end, hard))
    try:
        import numpy  # noqa: F401  # so that it is loaded, within the limit
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def size(num_bytes: float) -> str:
    """`3.2 GiB`, for people."""
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.2f} GiB"


def nearest_folder(path: Path) -> Path:
    """The path itself where it is a folder, else the nearest one above that is."""
    path = path.absolute()
    return next((folder for folder in (path, *path.parents) if folder.is_dir()), Path("/"))


def free_bytes(folder: Path) -> int:
    """Bytes that a user may still write on the folder's disk; 0 where that cannot be asked."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return 0
    return disk.f_bavail * disk.f_frsize


def require_space(folder: Path, num_bytes: int, what: str) -> None:
    """Refuse work for which a disk has no room.

    Raises:
        UserError: the disk of `folder`, which need not exist yet, has less than `num_bytes` free.
    """
    above = nearest_folder(folder)
    free = free_bytes(above)
    if free < num_bytes:
        raise UserError(
            f"{what} {size(num_bytes)}, and {above} has {size(free)} free",
            expected="room for it; nothing was published",
            fix="free some space, or use another disk (workspace.path for runstreams, TMPDIR for temporary files)",
        )


def address_space_bytes(pid: int) -> int:
    """The most address space that a process used so far; 0 for one that has ended."""
    with contextlib.suppress(OSError, IndexError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmPeak:"):
                return int(line.split()[1]) * 1024
    return 0


def find_lack(folders: Iterable[Path], peak_address_space_bytes: int, *, stage: str = "") -> UserError | None:
    """What has run out where a process of ours died without a word; None where nothing has.

    Tries it: memory and limits are those of this process, which the dead one inherited.

    Args:
        folders: where it was writing, with what it left.
        peak_address_space_bytes: the most it was seen to use.
        stage: the stage of a build in which it died.
    """
    limit = limit_of(resource.RLIMIT_AS)
    left = math.inf if limit is None else limit - peak_address_space_bytes
    if limit is not None and left < max(NEAR_LIMIT * limit, SMALL_REST_BYTES):
        return describe(errno.ENOMEM, stage=stage)
    for folder in folders:
        number = _probe(folder)
        if number is not None:
            return describe(number, folders=[folder], stage=stage)
    try:
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
    except RuntimeError:
        return describe(errno.EAGAIN, stage=stage)
    return None


def _probe(folder: Path) -> int | None:
    """The error number that writing a file in a folder ends with; None where it works."""
    limit = limit_of(resource.RLIMIT_FSIZE)
    try:
        if limit is not None and any(path.stat().st_size >= limit for path in folder.rglob("*") if path.is_file()):
            return errno.EFBIG
        probe = folder / f".vamc-probe-{os.getpid()}"
        try:
            probe.write_bytes(bytes(PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        return error.errno if error.errno in _WORDS or error.errno in _REFUSED else None
    return None
