"""A rank knows its launcher's variables, and ranks of one host never share more cores than they must."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vamc_runtime.errors import UserError
from vamc_runtime.ranks.place import choose_cores, launched_rank, share_of_cores


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"PMI_RANK": "1", "PMI_SIZE": "4", "PMI_FD": "7"}, id="Hydra: MPICH, Intel MPI"),
        pytest.param({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "PMIX_RANK": "1"}, id="Open MPI"),
        pytest.param({"PMIX_RANK": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "1"}, id="srun --mpi=pmix"),
        pytest.param({"PMI_RANK": "1", "PMI_SIZE": "4", "SLURM_NTASKS": "4"}, id="srun --mpi=pmi2"),
    ],
)
def test_launchers(environment: dict[str, str]) -> None:
    assert launched_rank(environment) == (1, 4)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        pytest.param({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, id="in a SLURM job, not started by an MPI srun"),
        pytest.param({"PMI_RANK": "1"}, id="rank without size"),
        pytest.param({"OMPI_COMM_WORLD_SIZE": "4"}, id="size without rank"),
        pytest.param({"PMI_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}, id="of different launchers"),
        pytest.param({"PMI_RANK": "", "PMI_SIZE": "4"}, id="emptied"),
        pytest.param({"PMI_RANK": "one", "PMI_SIZE": "two"}, id="not numbers"),
        pytest.param({"PMI_RANK": "-1", "PMI_SIZE": "4"}, id="below the first"),
        pytest.param({"PMI_RANK": "4", "PMI_SIZE": "4"}, id="beyond the last"),
        pytest.param({"PMI_RANK": "0", "PMI_SIZE": "9" * 5000}, id="endless"),
    ],
)
def test_not_a_rank(environment: dict[str, str]) -> None:
    assert launched_rank(environment) is None


def test_reads_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PMI_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert launched_rank() is None
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "1")
    assert launched_rank() == (0, 1)


CORES = st.lists(st.integers(0, 255), min_size=1, max_size=64, unique=True).map(sorted)


@given(cores=CORES, data=st.data())
def test_enough_cores(cores: list[int], data: st.DataObject) -> None:
    num_ranks = data.draw(st.integers(1, len(cores)))
    shares = [share_of_cores(cores, rank, num_ranks) for rank in range(num_ranks)]
    used = [core for share in shares for core in share]
    assert len(used) == len(set(used)), "shares are disjoint"
    assert set(used) <= set(cores), "only cores that this process may use"
    assert {len(share) for share in shares} == {len(cores) // num_ranks}, "shares are equal and as large as can be"
    assert all(tuple(sorted(share)) == share for share in shares)


@given(cores=CORES, extra=st.integers(1, 100))
def test_more_ranks_than_cores(cores: list[int], extra: int) -> None:
    num_ranks = len(cores) + extra
    shares = [share_of_cores(cores, rank, num_ranks) for rank in range(num_ranks)]
    assert all(len(share) == 1 for share in shares)
    load = [shares.count((core,)) for core in cores]
    assert sum(load) == num_ranks and max(load) - min(load) <= 1, "the load is spread evenly"


def test_neighbours_stay_together() -> None:
    # Cores with near numbers share caches and memory.
    assert [share_of_cores([0, 1, 2, 3, 8, 9], rank, 3) for rank in range(3)] == [(0, 1), (2, 3), (8, 9)]
    assert share_of_cores([4, 5, 6], 0, 2) == (4,)
    assert share_of_cores([4, 5, 6], 0, 1) == (4, 5, 6)


class TestChooseCores:
    def test_the_whole_share_or_the_first_of_it(self) -> None:
        assert choose_cores(None, [4, 5, 6, 7], 1, 2) == (6, 7)
        assert choose_cores(1, [4, 5, 6, 7], 1, 2) == (6,)
        assert choose_cores(4, [4, 5, 6, 7]) == (4, 5, 6, 7)

    def test_more_threads_than_cores(self) -> None:
        with pytest.raises(UserError) as caught:
            choose_cores(5, [4, 5, 6, 7])
        assert caught.value.found == "5 threads on 4 cores"
        assert caught.value.expected.startswith("at most 4")

    def test_more_threads_than_a_rank_has_cores(self) -> None:
        with pytest.raises(UserError) as caught:
            choose_cores(3, [4, 5, 6, 7], 0, 2)
        assert caught.value.found == "3 threads on 2 cores, the share of one of 2 ranks on this host"
