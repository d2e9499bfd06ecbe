"""Contents of files compared with the sha256 in the manifest: large ones piece by piece, by several threads, and once.

Once a large file was compared, its identity (device, inode, size, times of change) is remembered in the user's cache
and stands for its content: hashing tens of GB at every start would take longer than loading them.
"""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vamc_runtime import passed_checks
from vamc_runtime.errors import UserError
from vamc_runtime.machine import available_cores
from vamc_runtime.manifest import LARGE_FILE_BYTES, PIECE_BYTES, FileRecord, hash_file

SETTLED_SECONDS = 2.0
"""A file is remembered only when it was last changed so long ago that another change would show in its times: clocks
of file systems tick every few milliseconds, some every two seconds."""
_BLOCK_BYTES = 4 << 20


def record_file(path: Path) -> FileRecord:
    """What the manifest says about a file as it is now."""
    num_bytes = path.stat().st_size
    if num_bytes <= LARGE_FILE_BYTES:
        return FileRecord(num_bytes=num_bytes, sha256=hash_file(path))
    with ThreadPoolExecutor(len(available_cores())) as pool, path.open("rb") as file:
        whole = pool.submit(hash_file, path)
        pieces = pool.map(lambda begin: _hash_piece(file.fileno(), begin), range(0, num_bytes, PIECE_BYTES))
        return FileRecord(num_bytes=num_bytes, sha256=whole.result(), piece_sha256=tuple(pieces))


def check_content(path: Path, record: FileRecord, *, trust_known: bool = False) -> None:
    """Compare a file with its record.

    Args:
        path: the file.
        record: what its content should be.
        trust_known: not where this very file, being large, was compared before.

    Raises:
        UserError: it cannot be read, or was changed.
    """
    try:
        if not record.piece_sha256:
            if hash_file(path) != record.sha256:
                raise damaged(path)
            return
        with path.open("rb") as file, ThreadPoolExecutor(len(available_cores())) as pool:
            identity = Identity(path, file.fileno(), record)
            if trust_known and identity.is_known:
                return
            begins = range(0, record.num_bytes, PIECE_BYTES)
            found = pool.map(lambda begin: _hash_piece(file.fileno(), begin), begins)
            for begin, digest, expected in zip(begins, found, record.piece_sha256, strict=True):
                if digest != expected:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise _damaged_piece(path, begin)
            identity.remember()
    except OSError as error:
        raise unreadable(path, error) from error


def check_piece(path: Path, record: FileRecord, begin: int, data: npt.NDArray[np.uint8]) -> None:
    """Compare a piece in memory with the record.

    Args:
        path: the file, for messages.
        record: its record, which has pieces.
        begin: where the piece begins, a multiple of PIECE_BYTES.
        data: the piece, uint8 [bytes].

    Raises:
        UserError: it is not what was compiled.
    """
    if hashlib.sha256(data.data).hexdigest() != record.piece_sha256[begin // PIECE_BYTES]:
        raise _damaged_piece(path, begin)


class Identity:
    """Which file this is, as it is now; remembered, it stands for the content.

    Args:
        path: for people who look into the cache.
        descriptor: the open file.
        record: what its content should be.
    """

    def __init__(self, path: Path, descriptor: int, record: FileRecord) -> None:
        self._path = path
        self._descriptor = descriptor
        self._record = record
        self._key, self._changed_ns = self._look()
        self._since_ns = time.time_ns()

    def _look(self) -> tuple[str, int]:
        status = os.fstat(self._descriptor)
        parts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        return ":".join(map(str, (*parts, self._record.sha256))), max(status.st_mtime_ns, status.st_ctime_ns)

    @property
    def is_known(self) -> bool:
        """Whether this very file was compared before, and not changed since."""
        return passed_checks.has_passed("file_contents", self._key)

    def remember(self) -> None:
        """Record that its content was compared since this object was made, unless it changed meanwhile."""
        settled = self._since_ns - self._changed_ns > SETTLED_SECONDS * 1e9
        if settled and self._look()[0] == self._key:
            passed_checks.remember("file_contents", self._key, str(self._path.resolve()))


def damaged(path: Path, detail: str = "its sha256 is not the one in manifest.json") -> UserError:
    """The error for a file that is not what was compiled."""
    return UserError(
        f"{path} is damaged: {detail}",
        expected="the file as it was compiled",
        fix="copy the runstream again, or compile it again",
    )


def unreadable(path: Path, error: OSError) -> UserError:
    """The error for a file that the system does not give."""
    return UserError(
        f"{path} cannot be read: {error.strerror or error}",
        fix="check that it is still there, its permissions and the disk, or copy the runstream again",
    )


def _damaged_piece(path: Path, begin: int) -> UserError:
    return damaged(path, f"the sha256 of its {PIECE_BYTES >> 20} MiB from byte {begin} is not the one in manifest.json")


def _hash_piece(descriptor: int, begin: int) -> str:
    digest = hashlib.sha256()
    end = begin + PIECE_BYTES
    while begin < end and (block := os.pread(descriptor, min(_BLOCK_BYTES, end - begin), begin)):
        digest.update(block)
        begin += len(block)
    return digest.hexdigest()
