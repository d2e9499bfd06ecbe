"""Facts of the machine, read from files as Linux writes them."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from vamc_runtime import machine

MIB = 1 << 20


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The system's files by path; others do not exist."""
    content: dict[str, str] = {}
    monkeypatch.setattr(machine, "_read", lambda file: content.get(str(file), ""))
    return content


@pytest.mark.parametrize("setting", ["always", "madvise", "never"])
def test_transparent_huge_pages(files: dict[str, str], setting: str) -> None:
    line = "always madvise never".replace(setting, f"[{setting}]")
    files["/sys/kernel/mm/transparent_hugepage/enabled"] = line
    assert machine.transparent_huge_pages() == setting


def test_kernel_without_huge_pages(files: dict[str, str]) -> None:
    assert machine.transparent_huge_pages() == "never"


class TestOnePerCore:
    def siblings(self, files: dict[str, str], *groups: str) -> None:
        for group in groups:
            for cpu in group.replace("-", ",").split(","):
                files[f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"] = group

    def test_hardware_threads_side_by_side(self, files: dict[str, str]) -> None:
        self.siblings(files, "0-1", "2-3")
        assert machine.one_per_core([0, 1, 2, 3]) == [0, 2]

    def test_hardware_threads_in_two_halves(self, files: dict[str, str]) -> None:
        self.siblings(files, "0,4", "1,5", "2,6", "3,7")
        assert machine.one_per_core(range(8)) == [0, 1, 2, 3]
        assert machine.one_per_core([4, 5]) == [4, 5], "the only ones of their cores that this process may use"

    def test_unknown(self, files: dict[str, str]) -> None:
        assert machine.one_per_core([2, 5]) == [2, 5]


SMAPS = """\
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
Size:               4096 kB
Rss:                4096 kB
AnonHugePages:      2048 kB
FilePmdMapped:         0 kB
VmFlags: rd wr mr
7f0000400000-7f0000500000 r--p 00001000 fe:00 77    /weights
Rss:                1000 kB
AnonHugePages:         0 kB
FilePmdMapped:       750 kB
7f0000500000-7f0000600000 r--p 00001000 fe:00 77
Rss:                   0 kB"""


@pytest.mark.parametrize(
    ("address", "share"),
    [
        (0x7F0000000000, 0.5),
        (0x7F00003FFFFF, 0.5),
        (0x7F0000400000, 0.75),
        (0x7F0000500000, 0.0),
        (0x7F0000600000, 0.0),
    ],
)
def test_huge_page_share(files: dict[str, str], address: int, share: float) -> None:
    files["/proc/self/smaps"] = SMAPS
    assert machine.huge_page_share(address) == share


class TestAvailableMemory:
    @pytest.fixture(autouse=True)
    def host(self, files: dict[str, str]) -> None:
        files["/proc/meminfo"] = "MemTotal: 9999999 kB\nMemAvailable:   1048576 kB"

    def test_of_the_host(self) -> None:
        assert machine.available_memory_bytes() == 1024 * MIB

    @pytest.mark.parametrize(("group", "path"), [("0::/", ""), ("1:cpu:/x\n0::/jobs/7", "/jobs/7")])
    def test_within_the_cgroup(self, files: dict[str, str], group: str, path: str) -> None:
        files["/proc/self/cgroup"] = group
        files[f"/sys/fs/cgroup{path}/memory.max"] = str(500 * MIB)
        files[f"/sys/fs/cgroup{path}/memory.current"] = str(300 * MIB)
        files[f"/sys/fs/cgroup{path}/memory.stat"] = f"anon 1\ninactive_file {100 * MIB}\nslab 5"
        assert machine.available_memory_bytes() == 300 * MIB, "cached files would make room"

    def test_cgroup_without_a_limit(self, files: dict[str, str]) -> None:
        files["/proc/self/cgroup"] = "0::/"
        files["/sys/fs/cgroup/memory.max"] = "max"
        files["/sys/fs/cgroup/memory.current"] = "123"
        assert machine.available_memory_bytes() == 1024 * MIB


class TestCpuModel:
    def test_generations_with_one_name_are_told_apart(self, files: dict[str, str]) -> None:
        files["/proc/cpuinfo"] = "cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nstepping\t: 1\n"
        assert machine.cpu_model() == "AMD EPYC (family 25, model 17, stepping 1)"

    def test_a_cpu_without_numbers(self, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("platform.machine", lambda: "aarch64")
        files["/proc/cpuinfo"] = "Features\t: fp asimd\n"
        assert machine.cpu_model() == "aarch64"


FLAGS = "sse4_2 avx avx2 fma f16c vaes gfni avx_vnni avx512f avx512_bf16 amx_tile amx_int8 apx_f"
LEGACY, AVX, AVX512, TILES = 0b11, 0b111, 0b1110_0111, 0b110_0000_0000_1110_0111


class TestRegisters:
    """What Linux lists, and what a process can use."""

    @pytest.mark.parametrize(
        ("saved", "lost"),
        [
            (TILES, ""),
            (AVX512, "amx_tile amx_int8"),
            (AVX | 1 << 17 | 1 << 18, "avx512f avx512_bf16"),
            (AVX512 & ~(1 << 5), "amx_tile amx_int8 avx512f avx512_bf16"),  # mask registers are missing
            (AVX512 & ~(1 << 7), "amx_tile amx_int8 avx512f avx512_bf16"),  # the second half of ZMM
            (TILES & ~(1 << 17), "amx_tile amx_int8"),
            (LEGACY, "amx_tile amx_int8 avx512f avx512_bf16 avx avx2 fma f16c vaes avx_vnni"),
        ],
    )
    def test_instructions_without_their_registers(self, saved: int, lost: str) -> None:
        listed = set(FLAGS.split())
        assert machine.usable_features(listed, saved) == listed - set(lost.split())

    @pytest.mark.parametrize("saved", [None, LEGACY])
    def test_what_is_listed(self, files: dict[str, str], monkeypatch: pytest.MonkeyPatch, saved: int | None) -> None:
        files["/proc/cpuinfo"] = "flags\t\t: sse4_2 avx2\n"
        monkeypatch.setattr(machine, "saved_registers", lambda: saved)
        expected = {"sse4_2", "avx2"} if saved is None else {"sse4_2"}
        assert machine.cpu_features() == expected, "a Linux that does not say is believed"

    def test_a_linux_that_does_not_say(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("platform.machine", lambda: "x86_64")
        monkeypatch.setattr(
            ctypes, "CDLL", lambda *_, **__: type("Library", (), {"syscall": staticmethod(lambda *_: -1)})
        )
        assert machine.saved_registers() is None
        monkeypatch.setattr("platform.machine", lambda: "aarch64")
        assert machine.saved_registers() is None

    def test_of_this_machine(self) -> None:
        saved = machine.saved_registers()
        if saved is None:
            pytest.skip("this Linux does not say")
        assert saved & LEGACY == LEGACY, "x87 and SSE"
        assert ("avx" in machine.cpu_features()) <= bool(saved & AVX == AVX)


class TestAmx:
    @pytest.mark.parametrize(("answer", "granted"), [(0, True), (-1, False)])
    def test_linux_is_asked(self, monkeypatch: pytest.MonkeyPatch, answer: int, granted: bool) -> None:
        asked: list[tuple[int, ...]] = []

        def syscall(*arguments: int) -> int:
            asked.append(arguments)
            return answer

        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: type("Library", (), {"syscall": staticmethod(syscall)}))
        monkeypatch.setattr("platform.machine", lambda: "x86_64")
        assert machine.request_amx() is granted
        assert asked == [(158, 0x1023, 18)]

    def test_other_processors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("platform.machine", lambda: "aarch64")
        assert machine.request_amx() is False


def test_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.available_cores() and machine.cpu_model()
    assert set(machine.one_per_core(machine.available_cores())) <= set(machine.available_cores())
    assert machine.available_memory_bytes() > 0
    assert machine.transparent_huge_pages() in ("always", "madvise", "never")
    _: Any = machine.request_amx()
