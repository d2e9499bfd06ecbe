"""Collectives over ranks that are threads, and their stand-ins on a rank alone."""

from __future__ import annotations

import threading
from functools import partial

import numpy as np
import pytest
import torch
from one_node import run_node

from vamc_compiler.ops import all_gather, all_reduce, all_reduce_max
from vamc_compiler.ops.collectives import run_ranks

TIMEOUT_SECONDS = 30


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
def test_all_reduce_sums_over_the_ranks(num_ranks: int) -> None:
    tensors = [torch.randn(3, 4, generator=torch.Generator().manual_seed(rank)) for rank in range(num_ranks)]
    expected = torch.stack(tensors).double().sum(0)
    results = run_ranks([partial(all_reduce, tensor) for tensor in tensors])
    for result in results:
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(result, results[0]), "every rank holds the same bits"


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
def test_all_reduce_max_is_the_largest_of_the_ranks(num_ranks: int) -> None:
    tensors = [torch.randn(7, 1, generator=torch.Generator().manual_seed(rank)) for rank in range(num_ranks)]
    expected = np.max([tensor.numpy() for tensor in tensors], axis=0)
    for result in run_ranks([partial(all_reduce_max, tensor) for tensor in tensors]):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_all_gather_keeps_the_order_of_the_ranks(num_ranks: int) -> None:
    tensors = [torch.full((2, 3), float(rank)) + torch.arange(3) / 10 for rank in range(num_ranks)]
    results = run_ranks([partial(all_gather, tensor, num_ranks) for tensor in tensors])
    for result in results:
        assert torch.equal(result, torch.cat(tensors, 1))


def test_many_rounds_do_not_mix() -> None:
    """A rank that runs ahead must not overwrite what another has yet to read."""

    def rank(index: int) -> list[float]:
        return [all_reduce(torch.tensor([float(10**index * step)])).item() for step in range(200)]

    results = run_ranks([partial(rank, index) for index in range(3)])
    assert results == [[111.0 * step for step in range(200)]] * 3


def test_results_come_in_rank_order() -> None:
    turn = threading.Event()

    def last() -> str:
        assert turn.wait(TIMEOUT_SECONDS)
        return "first rank"

    def first() -> str:
        turn.set()
        return "second rank"

    assert run_ranks([last, first]) == ["first rank", "second rank"]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_failing_rank_raises_its_own_error(failing: int) -> None:
    def rank(index: int) -> torch.Tensor:
        x = all_reduce(torch.ones(1))
        if index == failing:
            raise ValueError(f"rank {index} fails")
        return all_reduce(x)

    with pytest.raises(ValueError, match=f"rank {failing} fails"):
        run_ranks([partial(rank, index) for index in range(3)])


def test_groups_do_not_outlive_their_run() -> None:
    run_ranks([lambda: all_reduce(torch.ones(1))] * 2)
    assert torch.equal(all_reduce(torch.ones(2)), torch.ones(2))


def test_a_rank_alone() -> None:
    """Without the others a sum or maximum is of one term, and a gathered tensor repeats what there is: shapes hold."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert torch.equal(all_reduce(torch.from_numpy(x)), torch.from_numpy(x))
    np.testing.assert_array_equal(run_node("AllReduce", [x])[0], x)
    assert torch.equal(all_reduce_max(torch.from_numpy(-x)), torch.from_numpy(-x))
    np.testing.assert_array_equal(run_node("AllReduceMax", [-x])[0], -x)
    for num_ranks in (1, 2, 3):
        expected = np.tile(x, (1, num_ranks))
        np.testing.assert_array_equal(all_gather(torch.from_numpy(x), num_ranks).numpy(), expected)
        np.testing.assert_array_equal(run_node("AllGather", [x], num_ranks=num_ranks)[0], expected)
