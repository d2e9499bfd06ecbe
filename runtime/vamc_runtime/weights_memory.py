"""Where a rank's weights lie: in the mapped file, or copied into huge pages. What each costs: docs/runtime.md."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from vamc_runtime.arrays import huge_pages
from vamc_runtime.file_content import Identity, check_piece, damaged, unreadable
from vamc_runtime.manifest import PIECE_BYTES, FileRecord

HugePages = Literal["auto", "on", "off"]
"""`runtime.huge_pages` of a build config."""
OnLoad = Callable[[int, int], None]
"""Called while weights are read: bytes that are in memory, bytes in all. Always in the thread that loads."""

CHUNK_BYTES = PIECE_BYTES
_MADV_WILLNEED, _MADV_POPULATE_READ = 3, 22  # the second: Linux 5.14; not in the mmap module
_MAPPED, _COPIED = "the mapped file", "a copy"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a file gets into memory."""

    copied: bool
    """Copied into huge pages, else mapped."""
    read_ahead: bool
    """All of it before the first step, else as it is used."""
    problem: str = ""
    """Why it is not as it was asked for."""

    def __str__(self) -> str:
        return _COPIED if self.copied else _MAPPED


def choose_placement(
    wanted: HugePages, num_bytes: int, *, transparent_huge_pages: str, available_bytes: int
) -> Placement:
    """Decide from the facts of the machine.

    `auto` maps the file: that loads in a fraction of the time and memory, processes share it, and reading it is slower
    by less than it differs from one run to the next (figures in docs/runtime.md).

    Args:
        wanted: the setting.
        num_bytes: size of the file.
        transparent_huge_pages: `always`, `madvise` or `never` (`machine.transparent_huge_pages`).
        available_bytes: memory that can be had without swapping.
    """
    fits = num_bytes <= available_bytes
    mapped = Placement(copied=False, read_ahead=fits)
    if wanted != "on":
        return mapped
    if transparent_huge_pages == "never":
        problem = "/sys/kernel/mm/transparent_hugepage/enabled is never"
    elif not fits:
        problem = f"a copy of {num_bytes >> 20} MiB does not fit into {available_bytes >> 20} MiB of free memory"
    else:
        return Placement(copied=True, read_ahead=True)
    return Placement(copied=False, read_ahead=fits, problem=problem)


def load_file(
    path: Path,
    placement: Placement,
    *,
    num_threads: int = 1,
    on_load: OnLoad | None = None,
    record: FileRecord | None = None,
) -> npt.NDArray[np.uint8]:
    """The whole file, uint8 [bytes], at an address as aligned as its first byte is in the file.

    Its pieces are compared with the record while they are in reach, where they have not been before
    (`file_content.Identity`): that takes every core a second for each GB or two, the first time.

    Args:
        path: the file.
        placement: from `choose_placement`.
        num_threads: readers at the same time.
        on_load: told about progress.
        record: what the manifest says about the file; one without pieces is checked by the caller.

    Raises:
        UserError: the file cannot be read, or is not the one that was compiled.
    """
    try:
        return _load(path, placement, num_threads, on_load or (lambda done, total: None), record)
    except OSError as error:
        raise unreadable(path, error) from error


def _load(
    path: Path, placement: Placement, num_threads: int, report: OnLoad, record: FileRecord | None
) -> npt.NDArray[np.uint8]:
    with path.open("rb") as file:
        num_bytes = os.fstat(file.fileno()).st_size
        if record is not None and num_bytes != record.num_bytes:
            raise damaged(path, f"it has {num_bytes} bytes, not {record.num_bytes}")
        if placement.copied:
            data = huge_pages(num_bytes)
            chunk_reader = _copier(file.fileno(), data)
        else:
            # Private: a stray write never reaches the file.
            data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)
            chunk_reader = _populator(data)
        identity = None if record is None or not record.piece_sha256 else Identity(path, file.fileno(), record)
        unknown = identity is not None and not identity.is_known

        def read(begin: int, end: int) -> None:
            chunk_reader(begin, end)
            if unknown and record is not None:
                check_piece(path, record, begin, data[begin:end])

        if placement.read_ahead or unknown:
            _read_chunks(read, num_bytes, num_threads, report)
        if unknown and identity is not None:
            identity.remember()
    return data


ReadChunk = Callable[[int, int], None]
"""Brings the bytes [begin, end) of the file into memory."""


def _read_chunks(read: ReadChunk, num_bytes: int, num_threads: int, report: OnLoad) -> None:
    done = 0
    report(done, num_bytes)
    with ThreadPoolExecutor(num_threads) as pool:
        chunks = {}
        for begin in range(0, num_bytes, CHUNK_BYTES):
            end = min(begin + CHUNK_BYTES, num_bytes)
            chunks[pool.submit(read, begin, end)] = end - begin
        try:
            for chunk in as_completed(chunks):
                chunk.result()
                done += chunks[chunk]
                report(done, num_bytes)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # the rest is not wanted any more
            raise


def _copier(descriptor: int, data: npt.NDArray[np.uint8]) -> ReadChunk:
    view = data.data

    def read(begin: int, end: int) -> None:
        while begin < end:
            count = os.preadv(descriptor, [view[begin:end]], begin)
            if not count:
                raise OSError(errno.EIO, f"it ends after {begin} of {len(data)} bytes")
            begin += count

    return read


def _populator(data: npt.NDArray[np.uint8]) -> ReadChunk:
    # Through ctypes, which lets other threads run; mmap.madvise does not, and does not know POPULATE_READ.
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def read(begin: int, end: int) -> None:
        address = data.ctypes.data + begin  # a multiple of the page size, as the mapping and chunks are
        madvise(address, end - begin, _MADV_WILLNEED)
        if madvise(address, end - begin, _MADV_POPULATE_READ) == 0:
            return
        number = ctypes.get_errno()
        if number != errno.EINVAL:
            raise OSError(number, os.strerror(number))
        data[begin : end : mmap.PAGESIZE].max()  # an older Linux: look at a byte of every page

    return read
