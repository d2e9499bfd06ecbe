"""What this machine offers: CPU features, cores that this process may use, memory."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def _proc_field(file: str, *names: str) -> str:
    """The first value of /proc/`file` under one of `names`; empty when there is none."""
    try:
        text = Path("/proc", file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in names:
            return value.strip()
    return ""


def cpu_features() -> frozenset[str]:
    """Feature names as /proc/cpuinfo lists them (`flags` on x86, `Features` on Arm)."""
    return frozenset(_proc_field("cpuinfo", "flags", "Features").split())


def cpu_model() -> str:
    """The CPU's name, for people."""
    return _proc_field("cpuinfo", "model name") or platform.machine()


def available_cores() -> list[int]:
    """Numbers of the cores this process may run on, in order."""
    return sorted(os.sched_getaffinity(0))


def available_memory_bytes() -> int:
    """Memory that can be used without swapping, page cache that would make room included."""
    kib = _proc_field("meminfo", "MemAvailable").removesuffix("kB").strip()
    return int(kib) * 1024 if kib else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
