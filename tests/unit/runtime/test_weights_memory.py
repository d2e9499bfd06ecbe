"""Where weights are put follows from the facts of the machine, and every way of loading gives the same bytes."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vamc_runtime import weights_memory as subject
from vamc_runtime.arrays import HUGE_PAGE_BYTES
from vamc_runtime.errors import UserError
from vamc_runtime.weights_memory import Placement, choose_placement, load_file

MAPPED = Placement(copied=False, read_ahead=True)
COPIED = Placement(copied=True, read_ahead=True)
GIB = 1 << 30


class TestChoice:
    def choose(self, wanted: Any, *, thp: str = "madvise", available: int = 8 * GIB) -> Placement:
        return choose_placement(wanted, GIB, transparent_huge_pages=thp, available_bytes=available)

    @pytest.mark.parametrize("wanted", ["auto", "off"])
    def test_the_file_is_mapped(self, wanted: str) -> None:
        assert self.choose(wanted) == MAPPED
        assert str(self.choose(wanted)) == "the mapped file"

    @pytest.mark.parametrize("thp", ["madvise", "always"])
    def test_on_copies(self, thp: str) -> None:
        assert self.choose("on", thp=thp) == COPIED
        assert str(self.choose("on")) == "a copy"

    def test_on_without_huge_pages(self) -> None:
        placement = self.choose("on", thp="never")
        assert not placement.copied and placement.read_ahead and "never" in placement.problem

    def test_on_without_memory(self) -> None:
        placement = self.choose("on", available=GIB - 1)
        assert not placement.copied and "1024 MiB does not fit into 1023 MiB" in placement.problem

    @pytest.mark.parametrize("wanted", ["auto", "on", "off"])
    def test_what_does_not_fit_is_read_as_it_is_used(self, wanted: str) -> None:
        assert not self.choose(wanted, available=GIB - 1).read_ahead
        assert self.choose(wanted, available=GIB).read_ahead


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten chunks, the last one short."""
    monkeypatch.setattr(subject, "CHUNK_BYTES", 1 << 16)
    path = tmp_path / "weights"
    path.write_bytes(np.random.default_rng(0).bytes((9 << 16) + 1234))
    return path


@pytest.mark.parametrize("placement", [MAPPED, COPIED, Placement(copied=False, read_ahead=False)], ids=str)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_all_bytes_of_the_file(file: Path, placement: Placement, num_threads: int) -> None:
    data = load_file(file, placement, num_threads=num_threads)
    assert data.tobytes() == file.read_bytes()
    data[0] ^= 255
    assert data.tobytes() != file.read_bytes(), "nothing is written back"


def test_huge_pages_begin_at_one(file: Path) -> None:
    assert load_file(file, COPIED).ctypes.data % HUGE_PAGE_BYTES == 0


@pytest.mark.parametrize("placement", [MAPPED, COPIED], ids=str)
def test_progress_grows_from_nothing_to_everything(file: Path, placement: Placement) -> None:
    heard: list[tuple[int, int]] = []
    load_file(file, placement, num_threads=2, on_load=lambda done, total: heard.append((done, total)))
    done = [part for part, _ in heard]
    assert len(heard) == 11 and done == sorted(set(done))
    assert done[0] == 0 and heard[-1] == (file.stat().st_size, file.stat().st_size)


def test_no_progress_where_nothing_is_read_ahead(file: Path) -> None:
    load_file(file, Placement(copied=False, read_ahead=False), on_load=lambda done, total: pytest.fail("told"))


def test_a_file_that_becomes_shorter(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "preadv", lambda descriptor, buffers, offset: 0)
    with pytest.raises(UserError, match=r"cannot be read: .*it ends after"):
        load_file(file, COPIED)


class FakeMadvise:
    """The C library's madvise, refusing."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.argtypes: object = None

    def __call__(self, address: int, length: int, advice: int) -> int:
        ctypes.set_errno(self.number)
        return -1


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EFAULT])
def test_a_linux_without_populate_and_a_disk_that_fails(
    file: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    madvise = FakeMadvise(number)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: type("Library", (), {"madvise": madvise}))
    if number == errno.EINVAL:
        assert load_file(file, MAPPED).tobytes() == file.read_bytes()
    else:
        with pytest.raises(UserError, match="cannot be read"):
            load_file(file, MAPPED)
