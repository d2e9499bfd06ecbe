"""How ranks run is chosen from how the process was started; nothing is loaded before everything is checked."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import fake_runstream as fake
import pytest

from vamc_runtime.errors import UserError
from vamc_runtime.executor import RankPlace
from vamc_runtime.ranks import open as subject
from vamc_runtime.ranks import remote
from vamc_runtime.ranks.options import RankOptions
from vamc_runtime.runstream import Runstream, open_runstream

Loaded = list[tuple[RankPlace, Any]]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """The places for which code was loaded in this process."""
    entered: Loaded = []

    class Executor:
        def __init__(self, runstream: Runstream, place: RankPlace, collectives: Any, on_load: object) -> None:
            self.place, self.collectives = place, collectives

        def __enter__(self) -> Executor:
            entered.append((self.place, self.collectives))
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            pass

    monkeypatch.setattr(subject, "RankExecutor", Executor)
    monkeypatch.setattr(subject, "available_cores", lambda: [3, 5])
    return entered


def launched(monkeypatch: pytest.MonkeyPatch, value: tuple[int, int] | None) -> None:
    monkeypatch.setattr(subject, "launched_rank", lambda: value)


def open_it(path: Path, **options: Any) -> None:
    with subject.open_executor(open_runstream(path), RankOptions(num_pages=7, **options)):
        pass


@pytest.mark.parametrize("start", [None, (0, 1)])
def test_one_rank_runs_in_this_process(
    tmp_path: Path, loaded: Loaded, monkeypatch: pytest.MonkeyPatch, start: tuple[int, int] | None
) -> None:
    fake.build(tmp_path)
    launched(monkeypatch, start)
    open_it(tmp_path)
    assert loaded == [(RankPlace(rank=0, cores=(3, 5), num_pages=7), None)]


def test_threads_and_huge_pages(tmp_path: Path, loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.build(tmp_path)
    launched(monkeypatch, None)
    open_it(tmp_path, num_threads=1, huge_pages="on")
    assert loaded == [(RankPlace(rank=0, cores=(3,), num_pages=7, huge_pages="on"), None)]
    with pytest.raises(UserError, match="3 threads on 2 cores"):
        open_it(tmp_path, num_threads=3)


@pytest.mark.parametrize(
    ("num_ranks", "started", "expected"),
    [(2, 3, "mpiexec -n 2, or no mpiexec"), (1, 2, "mpiexec -n 1, or no mpiexec"), (2, 1, "mpiexec -n 2")],
)
def test_another_number_of_ranks(
    tmp_path: Path,
    loaded: Loaded,
    monkeypatch: pytest.MonkeyPatch,
    num_ranks: int,
    started: int,
    expected: str,
) -> None:
    fake.build(tmp_path, tensor_parallel=num_ranks)
    launched(monkeypatch, (0, started))
    with pytest.raises(UserError) as caught:
        open_it(tmp_path)
    assert f"has {num_ranks} rank" in caught.value.found and f"started {started}" in caught.value.found
    assert caught.value.expected == expected
    assert not loaded


def test_several_ranks_are_children(tmp_path: Path, loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []

    class Children:
        def __init__(self, runstream: Runstream, options: RankOptions, on_load: object) -> None:
            started.append((runstream.path, options))

        def __enter__(self) -> Children:
            return self

        def __exit__(self, *error: object) -> None:
            started.append("ended")

    monkeypatch.setattr(remote, "RemoteExecutor", Children)
    launched(monkeypatch, None)
    fake.build(tmp_path, tensor_parallel=2)
    open_it(tmp_path, verify_hash=True)
    assert started == [(tmp_path, RankOptions(num_pages=7, verify_hash=True)), "ended"]
    assert not loaded


class TestCheckedBeforeLoading:
    def refused(self, path: Path, loaded: Loaded, found: str, *, verify_hash: bool = False) -> None:
        with pytest.raises(UserError, match=found):
            open_it(path, verify_hash=verify_hash)
        assert not loaded, "code of a runstream that is not right was loaded"

    @pytest.fixture(autouse=True)
    def alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        launched(monkeypatch, None)

    def test_damaged_library(self, tmp_path: Path, loaded: Loaded) -> None:
        # Loading it would end the process with a segmentation fault.
        fake.build(tmp_path)
        (tmp_path / "lib/model.any.so").write_bytes(b"CODE for any")
        self.refused(tmp_path, loaded, "lib/model.any.so is damaged")

    def test_verify_hash_looks_at_large_files_too(self, tmp_path: Path, loaded: Loaded) -> None:
        fake.build_large(tmp_path)
        weights = tmp_path / "rank_0/params.safetensors"
        content = bytearray(weights.read_bytes())
        content[40 << 20] ^= 1
        weights.write_bytes(content)
        found = r"params\.safetensors is damaged.* from byte 33554432"
        self.refused(tmp_path, loaded, found, verify_hash=True)
        open_it(tmp_path)  # whoever loads them looks at them
        assert len(loaded) == 1

    def test_other_toolchain(self, tmp_path: Path, loaded: Loaded) -> None:
        fake.build(tmp_path, toolchain={"apache-tvm-ffi": "0.0.1"})
        self.refused(tmp_path, loaded, "built against apache-tvm-ffi 0.0.1")
