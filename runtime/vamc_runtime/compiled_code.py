"""Loading a runstream's compiled code into this process: the Relax VM, and the library of one CPU."""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
from pathlib import Path
from typing import Any

from vamc_runtime.errors import UserError
from vamc_runtime.ffi import tvm_ffi
from vamc_runtime.manifest_checks import VM_LIBRARY
from vamc_runtime.runstream import Runstream

SPIN_COUNT = "1000"
"""How often an idle worker thread looks for work before it sleeps; TVM's own default burns 146 ms of CPU each time."""


def load_vm(runstream: Runstream) -> Any:
    """Load the Relax VM that the runstream was built against, unless this process has one; returns tvm_ffi.

    Args:
        runstream: hashes compared by the caller: a damaged library ends the process.

    Raises:
        UserError: the system refuses to load it.
    """
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", SPIN_COUNT)
    ffi = tvm_ffi()
    if ffi.get_global_func("runtime.config_threadpool", allow_missing=True) is None:
        path = runstream.path / VM_LIBRARY
        try:
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)  # libraries look for its symbols
        except OSError as error:
            raise _not_loaded(path, error) from error
    return ffi


def load_library(runstream: Runstream, file: str) -> Any:
    """Load compiled code under a path of its own for each content.

    The dynamic loader takes a path that it has loaded before for the same library, even when the file was replaced
    since (a runstream compiled again under its name, opened again by the same process): the old code would run.

    Args:
        runstream: hashes compared by the caller.
        file: the library's path in it.

    Returns:
        A tvm_ffi module.

    Raises:
        UserError: the system refuses to load it.
    """
    path = runstream.path / file
    with tempfile.TemporaryDirectory(prefix="vamc-") as folder:
        link = Path(folder) / f"{runstream.manifest.files[file].sha256}.so"
        link.symlink_to(path.resolve())
        try:
            return tvm_ffi().load_module(str(link))
        except (OSError, RuntimeError) as error:
            raise _not_loaded(path, error) from error


def _not_loaded(path: Path, error: Exception) -> UserError:
    """The error for compiled code that the dynamic loader refuses, though its content is right.

    Mounting a file system noexec is how its owner says that nothing on it may run. Loading the code from memory instead
    would work, and would override that; so it is refused, with what to do.
    """
    with contextlib.suppress(OSError):
        if os.statvfs(path).f_flag & os.ST_NOEXEC:
            return UserError(
                f"{path} cannot be loaded: it lies on a file system that is mounted noexec",
                expected="compiled code on a file system from which programs may run",
                fix=f"copy the folder {path.parent} to another file system and put a symbolic link to it in its place "
                "(the weights may stay), move the whole runstream, or have the file system mounted with exec",
            )
    return UserError(
        f"{path} cannot be loaded: {error}",
        expected="a system like the one it was compiled on",
        fix="compile the runstream on this machine, or on one whose C library is no newer than this machine's",
    )
