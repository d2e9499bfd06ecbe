"""Linking object files to a shared library without a C compiler: `ld`, else the linker inside the ziglang wheel."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vamc_runtime.errors import UserError
from vamc_runtime.resources import number_in


def find_linker() -> list[str]:
    """The command that links, without its arguments.

    Raises:
        UserError: neither `ld` nor the ziglang wheel is installed.
    """
    ld = shutil.which("ld")
    if ld is not None:
        return [ld]
    ziglang = importlib.util.find_spec("ziglang")
    if ziglang is not None and ziglang.origin is not None:
        # The program itself: `python -m ziglang` would import from the current directory first.
        return [str(Path(ziglang.origin).parent / "zig"), "ld.lld"]
    raise UserError(
        "there is no linker: neither `ld` on PATH nor the ziglang wheel",
        expected="one of the two",
        fix='pip install ziglang (part of "vamc[compiler]"), or install binutils',
    )


def link_library(executable: Any, path: Path, linker: Sequence[str]) -> None:
    """Write a TVM executable as a shared library at `path`.

    Raises:
        OSError: the linker found no room for the library, or no memory.
        RuntimeError: it failed for another reason.
    """

    def run_linker(output: str, objects: Sequence[str], **_: Any) -> None:
        command = [*linker, "-shared", "-o", output, *objects]
        # In English, for `number_in`.
        environment = {**os.environ, "LC_ALL": "C"}
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=environment)
        if result.returncode:
            number = _lack(result.returncode, result.stderr)
            if number is not None:
                raise OSError(number, os.strerror(number), output)
            raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")

    with tempfile.TemporaryDirectory(prefix="vamc-link-") as objects:
        executable.export_library(str(path), fcompile=run_linker, workspace_dir=objects)


def _lack(status: int, errors: str) -> int | None:
    """The system's number for what the linker had too little of; None where it failed for another reason."""
    by_signal = {
        -signal.SIGXFSZ: errno.EFBIG,
        -signal.SIGBUS: errno.ENOSPC,  # it maps its output
        -signal.SIGKILL: errno.ENOMEM,
    }
    return by_signal.get(status, number_in(errors))
