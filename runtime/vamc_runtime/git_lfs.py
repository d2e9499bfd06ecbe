"""Recognising Git LFS pointers: what a clone made without git-lfs holds in place of large files."""

from __future__ import annotations

from vamc_runtime.errors import UserError
from vamc_runtime.stored_path import ReadablePath

_MARKS = (b"version https://git-lfs.github.com/", b"version https://hawser.github.com/")
"""First line of a pointer (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md); hawser is the name before."""


def refuse_lfs_pointer(
    path: ReadablePath, beginning: bytes, *, expected: str = "", fix: str = "run `git lfs pull` in that folder"
) -> None:
    """Refuse a file whose first bytes are those of a pointer.

    Args:
        path: named in the message.
        beginning: at least the first 64 of the file, or all of a shorter one.
        expected: what the file should be; empty when its name says it.
        fix: what the user does about it.

    Raises:
        UserError: it is a pointer.
    """
    if beginning.startswith(_MARKS):
        raise UserError(f"{path} is a Git LFS pointer, not the file itself", expected=expected, fix=fix)
