"""Contents are compared with the manifest: large ones by pieces, and again only when the file is another one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from vamc_runtime import file_content, passed_checks, weights_memory
from vamc_runtime.errors import UserError
from vamc_runtime.file_content import Identity, check_content, record_file
from vamc_runtime.manifest import FileRecord
from vamc_runtime.weights_memory import Placement, load_file

SIZE = (64 << 20) + 12345
MAPPED = Placement(copied=False, read_ahead=True)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vamc" / "file_contents.json"


@pytest.fixture(scope="module")
def content() -> bytes:
    return b"begin" + bytes(SIZE - 8) + b"end"


@pytest.fixture
def large(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "r" / "large"
    path.parent.mkdir()
    path.write_bytes(content[:5])
    os.truncate(path, SIZE - 3)  # the zeros take no space
    with path.open("ab") as file:
        file.write(content[-3:])
    return path


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were changed just now may be remembered."""
    monkeypatch.setattr(file_content, "SETTLED_SECONDS", -1.0)


@pytest.fixture(scope="module")
def record(content: bytes) -> FileRecord:
    pieces = [content[begin : begin + (32 << 20)] for begin in (0, 32 << 20, 64 << 20)]
    return FileRecord(
        num_bytes=SIZE,
        sha256=hashlib.sha256(content).hexdigest(),
        piece_sha256=tuple(hashlib.sha256(piece).hexdigest() for piece in pieces),
    )


def flip(path: Path, position: int) -> None:
    """Change a byte and set the time of change back, as a careful attacker would."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def not_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_memory, "check_piece", lambda *arguments: pytest.fail("hashed again"))
    monkeypatch.setattr(file_content, "_hash_piece", lambda *arguments: pytest.fail("hashed again"))


def test_records(large: Path, record: FileRecord, tmp_path: Path) -> None:
    assert record_file(large) == record and record.num_pieces == 3
    (tmp_path / "small").write_bytes(b"abc")
    small = record_file(tmp_path / "small")
    assert small == FileRecord(num_bytes=3, sha256=hashlib.sha256(b"abc").hexdigest()) and small.num_pieces == 0


@pytest.mark.parametrize("read_ahead", [True, False])
@pytest.mark.parametrize("copied", [True, False])
def test_the_first_load_finds_a_flipped_bit(large: Path, record: FileRecord, copied: bool, read_ahead: bool) -> None:
    placement = Placement(copied=copied, read_ahead=read_ahead or copied)
    flip(large, (64 << 20) + 7)
    with pytest.raises(UserError, match=f"{large} is damaged.* 32 MiB from byte {64 << 20}"):
        load_file(large, placement, num_threads=2, record=record)


@pytest.mark.usefixtures("settled")
def test_once_for_each_file(
    large: Path, record: FileRecord, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_file(large, MAPPED, num_threads=2, record=record)
    assert str(large) in cache.read_text()
    with monkeypatch.context() as patched:
        not_hashed(patched)
        load_file(large, MAPPED, record=record)
        moved = tmp_path / "moved" / large.name
        large.parent.rename(moved.parent)
        load_file(moved, MAPPED, record=record)
    flip(moved, 5)
    with pytest.raises(UserError, match="is damaged"):
        load_file(moved, MAPPED, record=record)


@pytest.mark.usefixtures("settled")
def test_a_copy_is_another_file(large: Path, record: FileRecord, content: bytes) -> None:
    load_file(large, MAPPED, record=record)
    large.unlink()
    large.write_bytes(content[:-1] + b"x")
    with pytest.raises(UserError, match="is damaged"):
        load_file(large, MAPPED, record=record)


@pytest.mark.usefixtures("settled")
def test_another_record_is_another_question(large: Path, record: FileRecord) -> None:
    load_file(large, MAPPED, record=record)
    other = FileRecord(num_bytes=SIZE, sha256="0" * 64, piece_sha256=("0" * 64,) * 3)
    with pytest.raises(UserError, match="is damaged"):
        load_file(large, MAPPED, record=other)


def test_a_file_that_was_just_written_is_not_remembered(large: Path, record: FileRecord, cache: Path) -> None:
    """Its times cannot tell it from what may be written in the same tick."""
    load_file(large, MAPPED, record=record)
    assert not cache.exists()


@pytest.mark.usefixtures("settled")
def test_a_file_that_changes_while_it_is_compared_is_not_remembered(
    large: Path, record: FileRecord, cache: Path
) -> None:
    with large.open("rb") as file:
        identity = Identity(large, file.fileno(), record)
        flip(large, 0)
        identity.remember()
    assert not cache.exists()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("text", ["", "{", '{"passed": 7}', "[" * 10_000])
def test_a_damaged_cache_costs_a_comparison(large: Path, record: FileRecord, cache: Path, text: str) -> None:
    load_file(large, MAPPED, record=record)
    cache.write_text(text)
    flip(large, 0)
    with pytest.raises(UserError, match="is damaged"):
        load_file(large, MAPPED, record=record)


@pytest.mark.usefixtures("settled")
def test_asked_for_it_is_always_compared(large: Path, record: FileRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    load_file(large, MAPPED, record=record)
    with monkeypatch.context() as patched:
        not_hashed(patched)
        check_content(large, record, trust_known=True)
    flip(large, 0)
    with large.open("rb") as file:  # were the flipped file known too, only a comparison would tell
        passed_checks.remember("file_contents", Identity(large, file.fileno(), record)._key, "")
    check_content(large, record, trust_known=True)
    with pytest.raises(UserError, match="is damaged"):
        check_content(large, record)


def test_another_size(large: Path, record: FileRecord) -> None:
    os.truncate(large, SIZE - 1)
    with pytest.raises(UserError, match=f"it has {SIZE - 1} bytes, not {SIZE}"):
        load_file(large, MAPPED, record=record)


def test_a_file_that_is_gone(tmp_path: Path, record: FileRecord) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        load_file(tmp_path / "x", MAPPED, record=record)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        check_content(tmp_path / "x", record)
