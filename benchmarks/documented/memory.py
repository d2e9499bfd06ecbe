"""What it costs to load weights from a mapped file or as a copy in huge pages, and how fast either is read.

Every round looks at new processes: how fast memory is read depends on the physical pages that a process was given.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import numpy as np

from documented.figures import Group, Samples, Settings, Unit
from vamc_runtime.machine import available_memory_bytes, transparent_huge_pages
from vamc_runtime.weights_memory import choose_placement, load_file

FILE_BYTES, QUICK_FILE_BYTES = 1_360_000_000 // 64 * 64, 1 << 20
"""The int8 weights of a model of 1.3 B parameters."""
PLACES: dict[str, Literal["on", "off"]] = {"mapped": "off", "copied": "on"}
"""Where weights lie, and the value of `--huge-pages` that asks for it."""


def _load(path: Path, place: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    placement = choose_placement(
        PLACES[place],
        path.stat().st_size,
        transparent_huge_pages=transparent_huge_pages(),
        available_bytes=available_memory_bytes(),
    )
    if placement.problem:
        raise SystemExit(f"{place}: {placement.problem}")
    return load_file(path, placement, num_threads=len(os.sched_getaffinity(0)))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def in_child(path: Path, places: str, repeats: int) -> dict[str, float]:
    """What a process of its own finds: one place to load from, or `both` to read in turns."""
    if places != "both":
        before, begun = _resident_bytes(), time.perf_counter()
        weights = _load(path, places)
        seconds = time.perf_counter() - begun
        return {"seconds": seconds, "resident": _resident_bytes() - before, "bytes": len(weights)}
    from documented.machine import compile_library, in_turns, num_threads, target_of

    target = target_of("host")
    assert target is not None, "the host can run what it is"
    num_threads()
    library, loaded = compile_library([], target), [_load(path, place) for place in PLACES]
    medians = in_turns(repeats, *(functools.partial(library.read_seconds, [array]) for array in loaded))
    return {place: len(array) / each for place, array, each in zip(PLACES, loaded, medians, strict=True)}


def _ask(path: Path, places: str, repeats: int) -> dict[str, float]:
    """`in_child` in a process of its own."""
    entry = Path(__file__).parents[1] / "kernels.py"
    command = [sys.executable, str(entry), "--load", str(path), places, str(repeats)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        print(f"loading {places} was left out: {result.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return {}
    found: dict[str, float] = json.loads(result.stdout)
    return found


def _drop_from_page_cache(path: Path) -> None:
    """The next reader finds the file on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(settings: Settings) -> Samples:
    """Loading from the page cache and from the disk, then reading in turns, in new processes every round."""
    num_bytes = QUICK_FILE_BYTES if settings.quick else FILE_BYTES
    found: dict[str, list[float]] = {key: [] for key in UNITS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights"
        with path.open("wb") as file:
            rng = np.random.default_rng(0)
            for begin in range(0, num_bytes, 1 << 26):
                file.write(rng.bytes(min(1 << 26, num_bytes - begin)))
        for _ in range(settings.rounds):
            for place in PLACES:
                _drop_from_page_cache(path)
                for source in ("disk", "cache"):  # the first reading leaves the file in the page cache
                    answer = _ask(path, place, settings.repeats)
                    if answer:
                        found[f"memory.{place}.{source}"].append(answer["seconds"])
                        found[f"memory.{place}.resident"].append(answer["resident"])
            answer = _ask(path, "both", settings.repeats)
            for place, bandwidth in answer.items():
                found[f"memory.{place}.read"].append(bandwidth)
            if answer:
                found["memory.gain"].append(answer["copied"] / answer["mapped"])
    return {key: values for key, values in found.items() if values}


UNITS: dict[str, Unit] = {
    **{f"memory.{place}.{source}": "s" for source in ("cache", "disk") for place in PLACES},
    **{f"memory.{place}.resident": "B" for place in PLACES},
    **{f"memory.{place}.read": "B/s" for place in PLACES},
    "memory.gain": "ratio",
}
GROUP = Group(name="memory", units=UNITS, measure=measure)
