"""Where and with what a benchmark ran: without it a figure means nothing."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from dataclasses import dataclass
from typing import Any

from vamc_runtime.executor import RankExecutor
from vamc_runtime.machine import cpu_model, huge_page_share, transparent_huge_pages
from vamc_runtime.manifest import Manifest
from vamc_runtime.runstream import choose_library


@dataclass(frozen=True, kw_only=True)
class RankSurroundings:
    """One rank's."""

    host: str
    cores: tuple[int, ...]
    library: str
    """mcpu of the library that runs."""
    weights_in: str
    """Where the weights lie, for people."""


def describe_rank(executor: RankExecutor) -> RankSurroundings:
    """A task for every rank."""
    share = huge_page_share(executor.weights[executor.runstream.manifest.parameters[0]].ctypes.data)
    return RankSurroundings(
        host=platform.node(),
        cores=executor.place.cores,
        library=choose_library(executor.runstream).mcpu,
        weights_in=f"{executor.placement}, {round(100 * share)} % in huge pages",
    )


def surroundings(manifest: Manifest, ranks: list[RankSurroundings]) -> dict[str, Any]:
    """Machine, versions, runstream, threads and date, as JSON has them."""
    built = manifest.toolchain
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "cpu": cpu_model(),
            "cpus": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "linux": platform.release(),
            "transparent_huge_pages": transparent_huge_pages(),
            "load_average": os.getloadavg()[0],
        },
        "versions": {
            "python": platform.python_version(),
            "vamc": importlib.metadata.version("vamc"),
            "apache-tvm-ffi": importlib.metadata.version("apache-tvm-ffi"),
            "numpy": importlib.metadata.version("numpy"),
            "compiled_with_vamc": built.get("vamc", ""),
            "compiled_with_apache-tvm": built.get("apache-tvm", ""),
        },
        "runstream": {
            "name": manifest.name,
            "model": manifest.model.label,
            "num_parameters": manifest.model.num_parameters,
            "weights": manifest.precision.weights,
            "quantization": manifest.precision.quantization,
            "kv_cache": manifest.precision.kv_cache,
            "ranks": manifest.tensor_parallel,
            "library": ranks[0].library,
            "weights_in": ranks[0].weights_in,
        },
        "threads": sum(len(rank.cores) for rank in ranks),
        "cores": [list(rank.cores) for rank in ranks],
        "hosts": sorted({rank.host for rank in ranks}),
    }
