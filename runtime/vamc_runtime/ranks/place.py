"""Whether this process was started as a rank, and which cores a rank may use."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

# How the common launchers tell a process its rank and their number: Hydra (MPICH, Intel MPI), Open MPI, SLURM's PMI.
_LAUNCHERS = (
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMIX_RANK", "SLURM_NTASKS"),
)


def launched_rank(environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """(rank, number of ranks) when an MPI launcher started this process, else None."""
    for rank, size in _LAUNCHERS:
        if rank in environment and size in environment:
            return int(environment[rank]), int(environment[size])
    return None


def share_of_cores(cores: Sequence[int], local_rank: int, num_local_ranks: int) -> tuple[int, ...]:
    """The cores of one of the ranks on this host: equal, disjoint shares while there are enough, else one core each.

    With more ranks than cores, ranks take turns on a core; none ever runs more threads than its share.
    """
    if num_local_ranks > len(cores):
        return (cores[local_rank % len(cores)],)
    share = len(cores) // num_local_ranks
    return tuple(cores[local_rank * share : (local_rank + 1) * share])
