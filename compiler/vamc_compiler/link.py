"""Linking object files to a shared library without a C compiler: `ld`, else the linker inside the ziglang wheel."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vamc_runtime.errors import UserError


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
    """Write a TVM executable as a shared library at `path`."""

    def run_linker(output: str, objects: Sequence[str], **_: Any) -> None:
        command = [*linker, "-shared", "-o", output, *objects]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")

    executable.export_library(str(path), fcompile=run_linker)
