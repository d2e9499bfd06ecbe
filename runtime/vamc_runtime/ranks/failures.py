"""Why ranks ended, for people: the signal, the memory, and what to do."""

from __future__ import annotations

import shutil
import signal

from vamc_runtime.errors import UserError
from vamc_runtime.machine import available_memory_bytes
from vamc_runtime.manifest import Manifest
from vamc_runtime.processes import fatal_signal, out_of_memory_kills
from vamc_runtime.ranks import shared_memory
from vamc_runtime.ranks.options import RankOptions

ENOUGH_SHARED_MEMORY_BYTES = 48 << 20
"""Below this, a small /dev/shm is the likeliest reason why ranks end (containers have 64 MiB by default)."""
_LAUNCHER_FAILED = 255
"""Exit status of mpiexec for a fault of its own."""
_FROM_OUTSIDE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU)


def explain_end(status: int | None, manifest: Manifest, options: RankOptions, *, kills_before: int | None) -> Exception:
    """The error for ranks that ended without saying why.

    Args:
        status: mpiexec's exit status; None where it outlived its ranks and had to be killed.
        manifest: the runstream's.
        options: what the ranks were started with.
        kills_before: `out_of_memory_kills` before they were started.
    """
    number = None if status is None else fatal_signal(status)
    named = f": signal {number.value}, {number.name}" if number is not None else ""
    found = f"the ranks ended unexpectedly (mpiexec exit status {status}{named})"
    folder = shared_memory.FOLDER
    free_bytes = shutil.disk_usage(folder).free if folder.is_dir() else 0
    if number is signal.SIGKILL:
        return _killed(manifest, options, kills_before)
    if free_bytes < ENOUGH_SHARED_MEMORY_BYTES:
        return UserError(
            f"{found}, and {folder} has {free_bytes / 2**20:.0f} MiB free",
            expected=f"{ENOUGH_SHARED_MEMORY_BYTES >> 20} MiB or more: ranks of one host exchange tensors there",
            fix="give it more, for example docker run --shm-size=1g",
        )
    if number in _FROM_OUTSIDE:
        return UserError(
            f"the ranks were ended from outside{named}",
            fix="start it again; job schedulers end processes at a time limit or to make room",
        )
    if status is None or status == _LAUNCHER_FAILED:
        return UserError(
            f"mpiexec failed (exit status {status})" if status else "mpiexec lost the process that starts ranks for it",
            expected="its processes run until the program ends",
            fix="start it again; where it fails every time, see whether `mpiexec -n 2 hostname` works here",
        )
    return RuntimeError(found)


def _killed(manifest: Manifest, options: RankOptions, kills_before: int | None) -> UserError:
    """The error for SIGKILL, which Linux sends when memory runs out; so do people and job schedulers."""
    kills = out_of_memory_kills()
    if kills is None or kills_before is None:
        cause = "by Linux because memory ran out, or by another process"
    elif kills > kills_before:
        cause = "and Linux counts a process that it killed because memory ran out"
    else:
        cause = "by another process: Linux counts none that it killed because memory ran out"
    ranks = range(manifest.tensor_parallel)
    weights = sum(manifest.files[f"rank_{rank}/params.safetensors"].num_bytes for rank in ranks)
    cache = options.num_pages * manifest.kv_cache.page_bytes * len(ranks)
    return UserError(
        f"a rank was killed (signal 9, SIGKILL), {cause}; the {len(ranks)} ranks need {_size(weights)} for weights and "
        f"up to {_size(cache)} for the KV cache, and {_size(available_memory_bytes())} are free now that they ended",
        expected=f"{_size(weights + cache)} of free memory, and some for the program",
        fix="free memory, give the container or the job more, or ask for a smaller cache (--kv-cache-tokens, "
        "kv_cache_tokens=); where somebody or a job scheduler killed it, start it again",
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.3g} GiB" if num_bytes >= 1 << 30 else f"{num_bytes / 2**20:.3g} MiB"
