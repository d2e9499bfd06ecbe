"""The zip file that `torch.save` writes: where each of its records lies.

torch itself calculates, in some ways of loading, where a record should be if its own writer had written the file; a
file that another tool zipped again is laid out otherwise. Here every record is looked up, in the zip's directory and
in the header before its bytes, and torch's own reader must find it at the same place.

Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.7 for the header before a record; the records
of an archive: torch/serialization.py, `_save` and `_load`, torch 2.13.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vamc_compiler.show import one_line
from vamc_compiler.weights.stored_tensor import damaged, read_exactly
from vamc_runtime.errors import UserError

_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, and the lengths of the name and of the extra field that follow."""
_ENCRYPTED = 0x1
_ZIP_ERRORS = (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OverflowError, struct.error)
"""What the zipfile module raises for damaged files."""


@dataclass(frozen=True)
class Record:
    """A file inside the archive, stored as it is."""

    offset: int
    """First byte, from the start of the archive."""
    num_bytes: int


@dataclass(frozen=True)
class TorchArchive:
    """The records of an archive by name, without the folder that all of them share."""

    path: Path
    records: Mapping[str, Record]

    def read(self, name: str) -> bytes:
        """The bytes of a record.

        Raises:
            UserError: there is no such record, or the file became shorter.
            OSError: reading failed.
        """
        record = self.records.get(name)
        if record is None:
            raise damaged(self.path, f"it has no record {name!r}")
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            return read_exactly(descriptor, record.num_bytes, record.offset, self.path)
        finally:
            os.close(descriptor)


def open_torch_archive(path: Path) -> TorchArchive:
    """Look up every record of an archive; reads directory and headers only.

    Raises:
        UserError: the zip file is damaged, compressed or encrypted, holds a record twice, or torch reads it otherwise.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as file:
            entries = [entry for entry in file.infolist() if not entry.is_dir()]
    except _ZIP_ERRORS as error:
        raise damaged(path, f"its zip directory cannot be read ({one_line(str(error))})") from None
    _check_names(path, entries)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found = {entry.filename: _find_record(path, descriptor, entry) for entry in entries}
    finally:
        os.close(descriptor)
    folder = entries[0].filename.partition("/")[0] + "/" if entries else ""
    records = {name.removeprefix(folder): record for name, record in found.items() if name.startswith(folder)}
    _check_with_torch(path, records)
    return TorchArchive(path, records)


def _check_names(path: Path, entries: Iterable[zipfile.ZipInfo]) -> None:
    """Refuse names that could stand for two records; torch's reader ignores case."""
    seen: set[str] = set()
    for entry in entries:
        if entry.filename.lower() in seen:
            raise damaged(path, f"it holds {entry.filename!r} twice")
        seen.add(entry.filename.lower())


def _find_record(path: Path, descriptor: int, entry: zipfile.ZipInfo) -> Record:
    """Where the bytes of an entry begin: after the header that lies before them, which has lengths of its own."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & _ENCRYPTED:
        how = "encrypted" if entry.flag_bits & _ENCRYPTED else "compressed"
        raise UserError(
            f"{path} was packed by another tool than torch: {entry.filename!r} is {how}",
            expected="a zip file as torch.save writes it, with every record stored as it is",
            fix="load and save it once with torch, or pack it again without compression (zip -0)",
        )
    header = os.pread(descriptor, _LOCAL_HEADER.size, entry.header_offset) if entry.header_offset >= 0 else b""
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise damaged(path, f"there is no header where {entry.filename!r} should begin")
    _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    offset = entry.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    if entry.file_size != entry.compress_size or offset + entry.file_size > os.fstat(descriptor).st_size:
        raise damaged(path, f"{entry.filename!r} is longer than what is there")
    return Record(offset, entry.file_size)


def _check_with_torch(path: Path, records: Mapping[str, Record]) -> None:
    """Refuse an archive that torch refuses or reads otherwise: a zip file can be made to mean two things."""
    from vamc_compiler.torch_internals import open_archive

    try:
        reader = open_archive(path)
        reader.get_all_records()  # refuses records outside of the one folder
        reader.serialization_id()  # refuses one that is not text
        agrees = all(
            reader.get_record_offset(name) == record.offset and reader.get_record_size(name) == record.num_bytes
            for name, record in records.items()
        )
    except (RuntimeError, ValueError) as error:  # the second for names that are not UTF-8
        raise damaged(path, f"torch refuses it: {one_line(str(error).splitlines()[0])}") from None
    if not agrees:
        raise damaged(path, "torch finds its records at other places than the zip's directory says")
