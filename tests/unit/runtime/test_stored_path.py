"""A folder in memory behaves as the folder that it was read from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vamc_runtime.stored_path import ReadablePath, StoredPath


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "f" / "sub").mkdir(parents=True)
    (tmp_path / "f" / "a.json").write_text("{}")
    (tmp_path / "f" / "sub" / "b.txt").write_bytes(b"\xff")
    return tmp_path / "f"


def facts(path: ReadablePath) -> list[object]:
    found: list[object] = [str(path), path.name]
    for name in ("a.json", "sub", "sub/b.txt", "nothing"):
        below = path / name
        found += [str(below), below.name, below.exists(), below.is_file(), below.is_dir()]
    found += [(path / "a.json").read_bytes(), (path / "sub" / "b.txt").read_bytes()]
    return found + sorted(str(each) for each in path.glob("*.json"))


def test_like_the_folder(folder: Path) -> None:
    stored = StoredPath(folder, {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()})
    expected = facts(folder)
    assert facts(stored) == expected
    shutil.rmtree(folder)
    assert facts(stored) == expected
    for path in (folder, stored):
        with pytest.raises(FileNotFoundError) as caught:
            (path / "nothing").read_bytes()
        assert str(folder / "nothing") == caught.value.filename and caught.value.strerror


def test_an_empty_one(folder: Path) -> None:
    stored = StoredPath(folder, {})
    assert not stored.exists() and not stored.is_dir() and not list(stored.glob("*"))
