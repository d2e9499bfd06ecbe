"""What this machine offers: CPU features, cores that this process may use, memory."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Collection, Sequence
from pathlib import Path

AMX_TILE = "amx_tile"
# Linux, arch/x86/include/uapi/asm/prctl.h: what registers it saves for processes (as the CPU's XCR0 numbers them), and
# permission for a state component that is too large to save by default.
_SYS_ARCH_PRCTL, _ARCH_GET_XCOMP_SUPP, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1021, 0x1023, 18
# Beginning of a feature's name -> the registers that it needs: XMM and YMM; masks, and the upper parts and the second
# half of ZMM; the configuration of tiles and the tiles.
_REGISTERS = {
    ("avx512",): 0b1110_0110,
    ("avx", "fma", "f16c", "xop", "vaes", "vpclmulqdq"): 0b110,
    ("amx_",): 0b11 << 17,
}


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
    """Feature names as /proc/cpuinfo lists them (`flags` on x86, `Features` on Arm), as far as a process can use them.

    A hypervisor may show instructions and keep their registers from Linux: it lists them, and they are illegal.
    """
    listed = frozenset(_proc_field("cpuinfo", "flags", "Features").split())
    saved = saved_registers()
    return listed if saved is None else usable_features(listed, saved)


def usable_features(listed: Collection[str], saved: int) -> frozenset[str]:
    """Features whose registers are saved; `saved` has a bit for each set of registers, as XCR0 numbers them."""

    def needs(name: str) -> int:
        return next((bits for starts, bits in _REGISTERS.items() if name.startswith(starts)), 0)

    return frozenset(name for name in listed if needs(name) & saved == needs(name))


def saved_registers() -> int | None:
    """The sets of registers that Linux saves for processes, a bit for each as XCR0 numbers them.

    None where it does not say: before Linux 5.16, in some sandboxes, on other architectures.
    """
    if platform.machine() != "x86_64":
        return None
    bits = ctypes.c_uint64()
    libc = ctypes.CDLL(None, use_errno=True)
    known = libc.syscall(_SYS_ARCH_PRCTL, _ARCH_GET_XCOMP_SUPP, ctypes.byref(bits)) == 0 and bits.value
    return bits.value if known else None


def boot_id() -> str:
    """Names this start of this machine; empty where Linux does not say."""
    return _read(Path("/proc/sys/kernel/random/boot_id"))


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
