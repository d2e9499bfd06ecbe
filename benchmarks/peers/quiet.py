"""Whether anything but the measured process used the CPU, read from /proc, and when a measurement is worth keeping.

The load average is a mean over a minute; a compiler that another user starts for three seconds ruins a measurement
and hardly shows in it. This counts the CPU time that others took while the measurement ran.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_IDLE_COLUMNS = (3, 4)  # idle and iowait of the line `cpu` of /proc/stat
_LOOK_S = 0.5
_NUM_COLUMNS = 8  # up to `steal`, time that the hypervisor gave to other machines; what follows is counted in these


MOST_LOAD = 0.5
FEWEST_ROUNDS = 3
MOST_FOREIGN_CORES = 0.1


def broken_rules(*, load: float | None, rounds: int | None, cores: float | None) -> list[str]:
    """Which rules of benchmarks/README.md a measurement breaks, in words.

    Args:
        load: load average of the minute before it; None where it was not noted.
        rounds: rounds that were interleaved, or repetitions where nothing is compared; None where that means nothing.
        cores: that other processes used meanwhile, on average; None where that is not known.
    """
    broken = ["load not noted"] if load is None else [f"load {load:.1f}"] if load > MOST_LOAD else []
    if cores is not None and cores > MOST_FOREIGN_CORES:
        broken.append(f"others used {cores:.1f} cores")
    if rounds is not None and rounds < FEWEST_ROUNDS:
        broken.append(f"{rounds} round{'s' * (rounds != 1)}")
    return broken


def outside_the_rules(broken: Sequence[str]) -> str:
    """The mark of a report whose measurement breaks rules."""
    return f"† Outside the rules of benchmarks/README.md ({', '.join(broken)}): to be measured again."


class CpuTimes(NamedTuple):
    """Seconds since the start of the machine."""

    now: float
    busy: float
    """Of all cores together, stolen time included."""
    own: float
    """Of the measured process."""


def read_times(pid: int) -> CpuTimes:
    """The times now; `own` is that of process `pid` with all its threads."""
    columns = [int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1 : 1 + _NUM_COLUMNS]]
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = int(fields[11]) + int(fields[12])  # utime and stime
    busy = sum(columns) - sum(columns[column] for column in _IDLE_COLUMNS)
    return CpuTimes(time.perf_counter(), busy / _TICKS_PER_S, own / _TICKS_PER_S)


def foreign_cores(before: CpuTimes, after: CpuTimes) -> float:
    """Cores that others used between two readings, on average."""
    return max(0.0, (after.busy - before.busy) - (after.own - before.own)) / (after.now - before.now)


def wait_until_quiet(pid: int, cores: float, patience_s: float) -> None:
    """Return when others use at most `cores`, seen over half a second, or when patience is over."""
    end = time.perf_counter() + patience_s
    before = read_times(pid)
    while time.perf_counter() < end:
        time.sleep(_LOOK_S)
        after = read_times(pid)
        if foreign_cores(before, after) <= cores:
            return
        before = after
