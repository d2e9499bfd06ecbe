"""Names of shared memory go when nobody needs them; other processes' stay."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vamc_runtime.ranks import shared_memory


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for /dev/shm and /tmp."""
    monkeypatch.setattr(shared_memory, "_UCX", f"{tmp_path}/ucx_shm_posix_")
    monkeypatch.setattr(
        shared_memory,
        "_PREFIXES",
        (f"{tmp_path}/mpich_", f"{tmp_path}/hydra_hwloc_xmlfile_", f"{tmp_path}/ucx_shm_posix_"),
    )
    return tmp_path


def make(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(bytes(mmap.PAGESIZE))
    return path


@pytest.fixture
def mapped(folder: Path) -> Iterator[list[Path]]:
    """Files that this process has mapped."""
    paths = [make(folder, name) for name in ("mpich_shm_1_0", "ucx_shm_posix_2", "other_3")]
    maps = []
    for path in paths:
        with path.open("r+b") as file:
            maps.append(mmap.mmap(file.fileno(), 0))
    yield paths
    for each in maps:
        each.close()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_this_process_has_mapped_goes(folder: Path, mapped: list[Path]) -> None:
    make(folder, "mpich_shm_9_0")  # another job's
    shared_memory.unlink_names()
    assert names(folder) == {"mpich_shm_9_0", "ucx_shm_posix_2", "other_3"}, "others may still attach UCX's by name"
    shared_memory.unlink_names(at_the_end=True)
    assert names(folder) == {"mpich_shm_9_0", "other_3"}
    shared_memory.unlink_names(at_the_end=True)


def test_what_the_launcher_has_open_goes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getppid", os.getpid)
    path = make(folder, "hydra_hwloc_xmlfile_abc")
    make(folder, "hydra_hwloc_xmlfile_other")
    with path.open("rb"):
        shared_memory.unlink_names()
    assert names(folder) == {"hydra_hwloc_xmlfile_other"}


def test_a_launcher_that_cannot_be_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getppid", lambda: 2**22 + 1)  # no such process
    shared_memory.unlink_names()


def test_a_sweep_takes_new_files_that_nobody_uses(folder: Path, mapped: list[Path]) -> None:
    make(folder, "mpich_shm_8_0")
    os.utime(make(folder, "kept_7"))
    with make(folder, "hydra_hwloc_xmlfile_x").open("rb"):
        shared_memory.sweep(time.time() - 5)
    assert names(folder) == {"mpich_shm_1_0", "ucx_shm_posix_2", "other_3", "kept_7", "hydra_hwloc_xmlfile_x"}


def test_a_sweep_leaves_what_is_older(folder: Path) -> None:
    make(folder, "mpich_shm_8_0")
    shared_memory.sweep(time.time() + 5)
    assert names(folder) == {"mpich_shm_8_0"}


def test_a_sweep_leaves_what_another_user_owns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(folder, "mpich_shm_8_0")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    shared_memory.sweep(time.time() - 5)
    assert names(folder) == {"mpich_shm_8_0"}
