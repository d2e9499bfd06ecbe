"""What this machine offers: CPU features, cores that this process may use, memory."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

# Linux, arch/x86/include/uapi/asm/prctl.h: permission for a state component that is too large to save by default.
_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18


def _read(file: Path) -> str:
    """A small file of the system without the line's end; empty where there is none."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _proc_field(file: str, *names: str) -> str:
    """The first value of /proc/`file` under one of `names`; empty when there is none."""
    for line in _read(Path("/proc", file)).splitlines():
        key, _, value = line.partition(":")
        if key.strip() in names:
            return value.strip()
    return ""


def cpu_features() -> frozenset[str]:
    """Feature names as /proc/cpuinfo lists them (`flags` on x86, `Features` on Arm)."""
    return frozenset(_proc_field("cpuinfo", "flags", "Features").split())


def cpu_model() -> str:
    """The CPU's name, for people, with its family, model and stepping: hypervisors give generations one name."""
    name = _proc_field("cpuinfo", "model name") or platform.machine()
    numbers = [(key, _proc_field("cpuinfo", key)) for key in ("cpu family", "model", "stepping")]
    known = [f"{key.removeprefix('cpu ')} {value}" for key, value in numbers if value]
    return f"{name} ({', '.join(known)})" if known else name


def available_cores() -> list[int]:
    """Numbers of the cores this process may run on, in order."""
    return sorted(os.sched_getaffinity(0))


def one_per_core(cpus: Sequence[int]) -> list[int]:
    """Of hardware threads that share a core, the first; the rest as they are."""
    chosen: dict[str, int] = {}
    for cpu in cpus:
        siblings = _read(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
        chosen.setdefault(siblings or str(cpu), cpu)
    return sorted(chosen.values())


def available_memory_bytes() -> int:
    """Memory that can be used without swapping, page cache that would make room included, within the cgroup."""
    kib = _proc_field("meminfo", "MemAvailable").removesuffix("kB").strip()
    host = int(kib) * 1024 if kib else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    group = Path("/sys/fs/cgroup") / _proc_field("self/cgroup", "0").lstrip(":/")
    limit, used = _read(group / "memory.max"), _read(group / "memory.current")
    if not (limit.isdecimal() and used.isdecimal()):
        return host
    cached = [
        line.split()[1] for line in _read(group / "memory.stat").splitlines() if line.startswith("inactive_file ")
    ]
    return max(0, min(host, int(limit) - int(used) + sum(map(int, cached))))


def transparent_huge_pages() -> str:
    """The system's setting: `always`, `madvise` or `never`; `never` where there is none."""
    setting = re.search(r"\[(\w+)\]", _read(Path("/sys/kernel/mm/transparent_hugepage/enabled")))
    return setting.group(1) if setting else "never"


def huge_page_share(address: int) -> float:
    """How much of the memory mapped at an address of this process is in huge pages, 0 to 1."""
    sizes: dict[str, int] = {}
    inside = False
    for line in _read(Path("/proc/self/smaps")).splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):  # the heading of the next mapping: its addresses
            begin, _, end = name.partition("-")
            inside = int(begin, 16) <= address < int(end, 16)
        elif inside and rest[0].isdecimal():
            sizes[name] = int(rest[0])
    resident = sizes.get("Rss:", 0)
    return (sizes.get("AnonHugePages:", 0) + sizes.get("FilePmdMapped:", 0)) / resident if resident else 0.0


def request_amx() -> bool:
    """Ask Linux for the AMX tile registers, which it gives to a process only on request; whether they may be used."""
    if platform.machine() != "x86_64":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0)
