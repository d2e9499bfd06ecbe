"""Whatever stops a build, its place holds the old runstream or nothing, and nothing lies beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vamc_compiler.publish import check_place, remove_dead, staging
from vamc_compiler.stages import SilentReporter
from vamc_runtime import manifest
from vamc_runtime.errors import UserError


def publish(place: Path, content: str) -> None:
    with staging(place) as folder:
        (folder / manifest.FILE_NAME).write_text(content)
        (folder / "lib").mkdir()


def content(place: Path) -> str:
    return (place / manifest.FILE_NAME).read_text()


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_new_place(tmp_path: Path) -> None:
    place = tmp_path / "new" / "demo"
    with staging(place) as folder:
        assert folder.parent == place.parent and folder.is_dir(), "on the same file system"
        (folder / manifest.FILE_NAME).write_text("first")
        assert not place.exists()
    assert content(place) == "first"
    assert list(place.parent.iterdir()) == [place]


def test_an_old_runstream_is_replaced_as_a_whole(tmp_path: Path) -> None:
    place = tmp_path / "demo"
    publish(place, "old")
    (place / "only in the old one").touch()
    with staging(place) as folder:
        assert content(place) == "old", "it stays usable while the new one is built"
        (folder / manifest.FILE_NAME).write_text("new")
    assert content(place) == "new"
    assert [path.name for path in place.iterdir()] == [manifest.FILE_NAME]
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), KeyboardInterrupt(), UserError("wrong"), OSError(28, "full")]
)
@pytest.mark.parametrize("had_old", [False, True])
def test_a_build_that_ends_badly_leaves_nothing(tmp_path: Path, error: BaseException, had_old: bool) -> None:
    place = tmp_path / "demo"
    if had_old:
        publish(place, "old")
    with pytest.raises(type(error)) as caught, staging(place) as folder:
        (folder / manifest.FILE_NAME).write_text("half")
        raise error
    assert caught.value is error
    assert list(tmp_path.iterdir()) == ([place] if had_old else [])
    if had_old:
        assert content(place) == "old"


@pytest.mark.parametrize("which", ["the old one away", "the new one in"])
def test_a_failing_rename_leaves_the_old_runstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    place = tmp_path / "demo"
    publish(place, "old")
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if (path == place) if which == "the old one away" else ("building" in path.name):
            raise OSError(5, "Input/output error")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="Input/output error"):
        publish(place, "new")
    assert content(place) == "old"
    assert list(tmp_path.iterdir()) == [place]


def test_a_folder_that_is_no_runstream_is_not_replaced(tmp_path: Path) -> None:
    place = tmp_path / "demo"
    place.mkdir()
    (place / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="exists and is not a runstream"):
        publish(place, "new")
    assert (place / "thesis.txt").read_text() == "years of work"
    assert list(tmp_path.iterdir()) == [place]


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "demo").touch()
    with pytest.raises(UserError, match="exists and is not a runstream"):
        check_place(tmp_path / "demo")
    with pytest.raises(UserError, match=f"{tmp_path / 'demo'} cannot be written"):
        check_place(tmp_path / "demo" / "below" / "name")


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as root every folder can be written
    with pytest.raises(UserError, match=f"{tmp_path} cannot be written"):
        check_place(tmp_path / "new" / "demo")


def test_leftovers_of_dead_builds_are_removed(tmp_path: Path) -> None:
    place = tmp_path / "demo"
    for kind in ("building", "replaced"):
        leftover = tmp_path / f".demo.{kind}-{dead_pid()}"
        (leftover / "lib").mkdir(parents=True)
    publish(place, "new")
    assert list(tmp_path.iterdir()) == [place]


def test_what_belongs_to_others_stays(tmp_path: Path) -> None:
    """A build that runs, another runstream's leftovers, and names that only look alike."""
    dead = dead_pid()
    others = [
        f".demo.building-{os.getppid()}",
        f".demo2.building-{dead}",
        f".other.replaced-{dead}",
        f".demo.notes-{dead}",
        ".demo.building-final",
        f"demo.building-{dead}",
    ]
    for name in others:
        (tmp_path / name).mkdir()
    publish(tmp_path / "demo", "new")
    assert {path.name for path in tmp_path.iterdir()} == {"demo", *others}


def test_a_process_of_another_user_counts_as_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(pid: int, signal: int) -> None:
        assert signal == 0, "asking must not end anything"
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    other = tmp_path / ".demo.building-4711"
    other.mkdir()
    publish(tmp_path / "demo", "new")
    assert other.is_dir()


def test_own_leftover_with_the_same_pid(tmp_path: Path) -> None:
    """Process numbers come round: a leftover may bear this process's own."""
    leftover = tmp_path / f".demo.building-{os.getpid()}"
    leftover.mkdir()
    (leftover / "old.so").touch()
    publish(tmp_path / "demo", "new")
    assert not (tmp_path / "demo" / "old.so").exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "demo"]


def test_runstream_of_a_build_killed_between_two_renames_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had moved aside is put back before the next build begins, and survives that build's failure."""
    monkeypatch.setattr("vamc_compiler.publish._is_running", lambda pid: False)
    place = tmp_path / "name"
    aside = tmp_path / ".name.replaced-4242"
    aside.mkdir()
    (aside / "manifest.json").write_text("old")
    with pytest.raises(RuntimeError, match="stop"), staging(place):
        raise RuntimeError("stop")
    assert (place / "manifest.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


def test_leftovers_are_found_whatever_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vamc_compiler.publish._is_running", lambda pid: False)
    place = tmp_path / "odd[name]*"
    for name in (".odd[name]*.building-17", f".odd[name]*.building-{'9' * 40}"):
        (tmp_path / name).mkdir()
    with staging(place) as folder:
        (folder / "manifest.json").write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".odd[name]*.building-{'9' * 40}", "odd[name]*"]


def test_folders_of_dead_processes_are_removed(tmp_path: Path) -> None:
    dead, prefix = dead_pid(), ".vamc-verify-"
    kept = [f"{prefix}{os.getppid()}-a", f"{prefix}abc", f"other-{dead}-x", f"{prefix}x{dead}-y"]
    for name in (*kept, f"{prefix}{dead}-a", f"{prefix}{dead}-b"):
        (tmp_path / name / "lib").mkdir(parents=True)
    remove_dead(tmp_path, prefix)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


def test_the_folder_is_told_before_it_is_filled(tmp_path: Path) -> None:
    """Whoever watches the build removes it should the build die."""

    class Watcher(SilentReporter):
        def scratch(self, folder: Path) -> None:
            assert not folder.exists()
            told.append(folder)

    told: list[Path] = []
    with staging(tmp_path / "demo", Watcher()) as folder:
        (folder / "manifest.json").touch()
        assert told == [folder]
