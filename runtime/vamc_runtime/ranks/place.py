"""Whether this process was started as a rank, and which cores it computes on."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from vamc_runtime.errors import UserError

# How the common launchers tell a process its rank and their number: Hydra (MPICH, Intel MPI), Open MPI, SLURM's PMI.
_LAUNCHERS = (
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMIX_RANK", "SLURM_NTASKS"),
)

_COUNT = re.compile("[0-9]{1,9}")


def launched_rank(environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """(rank, number of ranks) when an MPI launcher started this process, else None.

    Values that no launcher sets, left over or edited, count as none.
    """
    for names in _LAUNCHERS:
        values = [environment.get(name, "") for name in names]
        if all(map(_COUNT.fullmatch, values)):
            rank, size = map(int, values)
            if rank < size:
                return rank, size
    return None


def share_of_cores(cores: Sequence[int], local_rank: int, num_local_ranks: int) -> tuple[int, ...]:
    """The cores of one of the ranks on this host: equal, disjoint shares while there are enough, else one core each.

    With more ranks than cores, ranks take turns on a core; none ever runs more threads than its share.
    """
    if num_local_ranks > len(cores):
        return (cores[local_rank % len(cores)],)
    share = len(cores) // num_local_ranks
    return tuple(cores[local_rank * share : (local_rank + 1) * share])


def choose_cores(
    num_threads: int | None, cores: Sequence[int], local_rank: int = 0, num_local_ranks: int = 1
) -> tuple[int, ...]:
    """The cores that a rank computes on, one thread each.

    Args:
        num_threads: as the user wants; None for the whole share.
        cores: those of the host that may be used, one hardware thread of each.
        local_rank: this rank among those of its host.
        num_local_ranks: ranks of this host.

    Raises:
        UserError: more threads than cores in the share, which would wait for one another at every operation.
    """
    share = share_of_cores(cores, local_rank, num_local_ranks)
    if num_threads is None:
        return share
    if num_threads > len(share):
        raise UserError(
            f"{num_threads} threads on {len(share)} core{'s' * (len(share) > 1)}"
            + (f", the share of one of {num_local_ranks} ranks on this host" if num_local_ranks > 1 else ""),
            expected=f"at most {len(share)}: hardware threads of one core count once",
            fix="ask for fewer threads or for none, which takes every core, or let the process use more cores "
            "(taskset, the cgroup, the job scheduler)",
        )
    return share[:num_threads]
