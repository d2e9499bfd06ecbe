"""Modeling files are loaded by path, as they are now, and leave the interpreter as it was."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest
from tiny_models import SOURCE_CODE

from vamc_compiler.model.source_code import find_source_code, load_module, load_package, source_files
from vamc_runtime.errors import UserError


@pytest.fixture(autouse=True)
def byte_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a user's machine: Python writes byte code unless told not to."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder


def test_relative_imports_and_inspection(tmp_path: Path) -> None:
    write(tmp_path, "sizes.py", "WIDTH = 3\n")
    write(tmp_path, "main.py", "from .sizes import WIDTH\n\nclass Model:\n    width = WIDTH\n")
    before = list(sys.path)
    module = load_module(load_package([tmp_path]), "main.py")
    assert module.Model.width == 3
    assert "width = WIDTH" in inspect.getsource(module.Model)
    assert module.__file__ == str(tmp_path / "main.py")
    assert sys.path == before
    assert "main" not in sys.modules and "sizes" not in sys.modules


def test_the_same_files_are_loaded_once(tmp_path: Path) -> None:
    write(tmp_path, "main.py", "x = 1\n")
    assert load_package([tmp_path]) == load_package([tmp_path])
    assert load_module(load_package([tmp_path]), "main.py") is load_module(load_package([tmp_path]), "main.py")


def test_an_edit_is_seen_at_once(tmp_path: Path) -> None:
    """Also within the second, and with the same size: the byte code of the old text must not be taken for it."""
    for value in range(1, 6):
        write(tmp_path, "sizes.py", f"x = {value}\n")
        write(tmp_path, "main.py", "from .sizes import x\n")
        assert load_module(load_package([tmp_path]), "main.py").x == value


def test_a_new_file_is_seen_at_once(tmp_path: Path) -> None:
    for value in range(5):
        write(tmp_path, f"part{value}.py", f"x = {value}\n")
        assert load_module(load_package([tmp_path]), f"part{value}.py").x == value


def test_the_digest_covers_files_and_places(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, "main.py", "x = 1\n") for name in ("a", "b"))
    names = [load_package([first]), load_package([second]), load_package([first, second])]
    write(first, "other.py", "")
    names.append(load_package([first]))
    write(first, "main.py", "x = 2\n")
    names.append(load_package([first]))
    assert len(set(names)) == len(names)


def test_the_first_folder_wins(tmp_path: Path) -> None:
    first = write(tmp_path / "a", "main.py", "x = 'first'\n")
    second = write(tmp_path / "b", "main.py", "x = 'second'\n")
    write(second, "base.py", "y = 'base'\n")
    package = load_package([first, second])
    assert load_module(package, "main.py").x == "first"
    assert load_module(package, "base.py").y == "base"
    assert source_files([first, second]) == [first / "main.py", second / "base.py", second / "main.py"]


def test_loading_leaves_no_files_behind(tmp_path: Path) -> None:
    write(tmp_path, "main.py", "x = 1\n")
    load_module(load_package([tmp_path]), "main.py")
    assert [path.name for path in tmp_path.iterdir()] == ["main.py"]


def test_a_missing_file(tmp_path: Path) -> None:
    write(tmp_path, "main.py", "x = 1\n")
    with pytest.raises(UserError, match=r"there is no modeling file 'none\.py' in .*" + tmp_path.name):
        load_module(load_package([tmp_path]), "none.py")


def test_a_file_that_fails_to_import(tmp_path: Path) -> None:
    write(tmp_path, "main.py", "import nothing_of_this_name\n")
    with pytest.raises(UserError, match=r"'main\.py' fails to import: ModuleNotFoundError: No module") as caught:
        load_module(load_package([tmp_path]), "main.py")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_file_may_raise_its_own_user_error(tmp_path: Path) -> None:
    write(tmp_path, "main.py", "from vamc_runtime.errors import UserError\nraise UserError('own words')\n")
    with pytest.raises(UserError, match=r"^own words$"):
        load_module(load_package([tmp_path]), "main.py")


def test_finding_the_folder(tmp_path: Path) -> None:
    assert find_source_code(tmp_path) == SOURCE_CODE  # the repository's, when none is nearer
    near = tmp_path / "a" / "source_code"
    near.mkdir(parents=True)
    assert find_source_code(tmp_path / "a" / "b") == SOURCE_CODE  # a folder of that name without models.yaml
    (near / "models.yaml").touch()
    assert find_source_code(tmp_path / "a") == near
    assert find_source_code(tmp_path / "a" / "b" / "c") == near
