"""What is remembered about checks that passed: found again, never trusted when damaged, never in the way."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vamc_runtime import passed_checks
from vamc_runtime.passed_checks import MAX_ENTRIES, Kind, cache_file

KIND: Kind = "self_tests"


def has_passed(key: str) -> bool:
    return passed_checks.has_passed(KIND, key)


def remember(key: str, note: str) -> None:
    passed_checks.remember(KIND, key, note)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def the_file() -> Path:
    file = cache_file(KIND)
    assert file is not None
    return file


def test_where_it_lies(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_file(KIND) == home / "cache" / "vamc" / "self_tests.json"
    monkeypatch.setenv("HOME", str(home))
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_file(KIND) == home / ".cache" / "vamc" / "self_tests.json"


def test_remembered() -> None:
    assert not has_passed("a")
    remember("a", "model on CPU A")
    remember("b", "model on CPU B")
    assert has_passed("a") and has_passed("b") and not has_passed("c")
    assert json.loads(the_file().read_text()) == {"passed": {"a": "model on CPU A", "b": "model on CPU B"}}


def test_the_oldest_are_dropped() -> None:
    for number in range(MAX_ENTRIES):
        remember(str(number), "")
    remember("0", "used again")
    remember("new", "")
    assert has_passed("new") and has_passed("0") and not has_passed("1") and has_passed("2")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b"7", b"{}", b'{"passed": ["a"]}', b'{"passed": "a"}', b"[" * 100_000]
)
def test_damaged(content: bytes) -> None:
    the_file().parent.mkdir(parents=True)
    the_file().write_bytes(content)
    assert not has_passed("a")
    remember("a", "")
    assert has_passed("a")


def test_a_folder_in_its_place() -> None:
    the_file().mkdir(parents=True)
    remember("a", "")
    assert not has_passed("a")
    assert [file.name for file in the_file().parent.iterdir()] == ["self_tests.json"], "nothing half written is left"


def test_a_file_in_place_of_the_folder(home: Path) -> None:
    (home / "cache").write_text("")
    remember("a", "")
    assert not has_passed("a")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(home: Path) -> None:
    (home / "cache").mkdir()
    (home / "cache").chmod(stat.S_IRUSR | stat.S_IXUSR)
    remember("a", "")
    assert not has_passed("a")


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_file(KIND) is None
    remember("a", "")
    assert not has_passed("a")


def test_kinds_have_files_of_their_own() -> None:
    remember("a", "")
    assert not passed_checks.has_passed("file_contents", "a")
    passed_checks.remember("file_contents", "b", "")
    assert has_passed("a") and not has_passed("b") and passed_checks.has_passed("file_contents", "b")


def test_several_at_once() -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: remember(str(number), ""), range(64)))
    entries = json.loads(the_file().read_text())["passed"]
    assert set(entries) == {str(number) for number in range(64)}, "writers take turns"
    assert [file.name for file in the_file().parent.iterdir()] == ["self_tests.json"]


def test_a_writer_that_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passed_checks, "_TURN_SECONDS", 0.05)
    the_file().parent.mkdir(parents=True)
    folder = os.open(the_file().parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    remember("a", "")
    os.close(folder)
    assert has_passed("a")
