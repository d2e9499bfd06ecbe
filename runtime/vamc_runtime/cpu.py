"""What this machine's CPU can do, and which cores this process may use."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def _cpuinfo_field(*names: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in names:
            return value.strip()
    return ""


def cpu_features() -> frozenset[str]:
    """Feature names as /proc/cpuinfo lists them (`flags` on x86, `Features` on Arm)."""
    return frozenset(_cpuinfo_field("flags", "Features").split())


def cpu_model() -> str:
    """The CPU's name, for people."""
    return _cpuinfo_field("model name") or platform.machine()


def available_cores() -> list[int]:
    """Numbers of the cores this process may run on, in order."""
    return sorted(os.sched_getaffinity(0))
