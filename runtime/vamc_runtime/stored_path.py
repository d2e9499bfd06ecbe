"""A folder of small files that was read before: what was checked is what is used, whatever becomes of the folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


class ReadablePath(Protocol):
    """As much of `pathlib.Path` as readers of a checkpoint's small files need: a Path is one, and a StoredPath."""

    @property
    def name(self) -> str:
        """The last part."""

    def __truediv__(self, key: str, /) -> ReadablePath:
        """What lies in this folder under a name."""

    def exists(self) -> bool:
        """Whether there is such a file or folder."""

    def is_file(self) -> bool:
        """Whether it is a file."""

    def is_dir(self) -> bool:
        """Whether it is a folder."""

    def read_bytes(self) -> bytes:
        """The file's content; OSError where there is none."""

    def glob(self, pattern: str, /) -> Iterator[ReadablePath]:
        """What lies in this folder under names that fit."""


@dataclass(frozen=True)
class StoredPath:
    """A file or folder, by content that is in memory. Messages show where it was read."""

    path: Path
    contents: Mapping[Path, bytes] = field(repr=False)
    """Every file, by its path."""

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The last part."""
        return self.path.name

    def __truediv__(self, key: str) -> StoredPath:
        return StoredPath(self.path / key, self.contents)

    def exists(self) -> bool:
        """Whether there is such a file or folder."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self.path in self.contents

    def is_dir(self) -> bool:
        """Whether it is a folder with files in it."""
        return any(self.path in file.parents for file in self.contents)

    def read_bytes(self) -> bytes:
        """The file's content.

        Raises:
            FileNotFoundError: there is none.
        """
        try:
            return self.contents[self.path]
        except KeyError:
            raise FileNotFoundError(2, "No such file", str(self.path)) from None

    def glob(self, pattern: str) -> Iterator[StoredPath]:
        """Files in this folder whose names fit."""
        for file in self.contents:
            if file.parent == self.path and file.match(pattern):
                yield StoredPath(file, self.contents)
