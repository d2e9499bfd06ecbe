"""Ranks that ended without a word: the message names the signal and what to do; only a fault of ours is called one."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import fake_runstream as fake
import pytest

from vamc_runtime.errors import UserError
from vamc_runtime.manifest import FileRecord, Manifest
from vamc_runtime.ranks import failures
from vamc_runtime.ranks.options import RankOptions
from vamc_runtime.runstream import open_runstream


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """Two ranks of 3 GiB each; /dev/shm has room, and 5 GiB of memory are free."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 30))
    monkeypatch.setattr(failures, "available_memory_bytes", lambda: 5 << 30)
    monkeypatch.setattr(failures, "out_of_memory_kills", lambda: 4)
    fake.build(tmp_path, tensor_parallel=2)
    found = open_runstream(tmp_path).manifest
    large = {f"rank_{rank}/params.safetensors": FileRecord(num_bytes=3 << 30, sha256="0" * 64) for rank in (0, 1)}
    return dataclasses.replace(found, files={**found.files, **large})


def explain(manifest: Manifest, status: int | None, kills_before: int | None = 4) -> Exception:
    return failures.explain_end(status, manifest, RankOptions(num_pages=3), kills_before=kills_before)


@pytest.mark.parametrize("status", [9, 137, -9])
def test_killed(manifest: Manifest, status: int) -> None:
    error = explain(manifest, status)
    assert isinstance(error, UserError)
    assert "signal 9, SIGKILL" in error.found
    assert "2 ranks need 6 GiB for weights" in error.found and "5 GiB are free" in error.found
    assert "--kv-cache-tokens" in error.fix and "bug" not in str(error)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (4, 4, "by another process: Linux counts none"),
        (4, 5, "Linux counts a process that it killed because memory ran out"),
        (None, None, "by Linux because memory ran out, or by another process"),
        (None, 5, "by Linux because memory ran out, or by another process"),
    ],
)
def test_who_killed(
    manifest: Manifest, before: int | None, after: int | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "out_of_memory_kills", lambda: after)
    assert said in str(explain(manifest, 9, before))


@pytest.mark.parametrize(("status", "name"), [(15, "signal 15, SIGTERM"), (130, "SIGINT"), (-1, "SIGHUP")])
def test_ended_from_outside(manifest: Manifest, status: int, name: str) -> None:
    error = explain(manifest, status)
    assert isinstance(error, UserError) and name in error.found


@pytest.mark.parametrize(("status", "name"), [(255, "exit status 255"), (None, "mpiexec lost the process")])
def test_the_launcher_failed(manifest: Manifest, status: int | None, name: str) -> None:
    error = explain(manifest, status)
    assert isinstance(error, UserError) and name in error.found


@pytest.mark.parametrize(("status", "name"), [(11, "signal 11, SIGSEGV"), (1, "exit status 1"), (70, "exit status 70")])
def test_a_fault_of_ours(manifest: Manifest, status: int, name: str) -> None:
    error = explain(manifest, status)
    assert isinstance(error, RuntimeError) and name in str(error)


def test_too_little_shared_memory(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    error = explain(manifest, 7)
    assert isinstance(error, UserError) and "SIGBUS" in error.found and "--shm-size" in error.fix
