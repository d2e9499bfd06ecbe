"""Collectives over MPI: real ranks, tensors as the compiled step passes them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from vamc_runtime.ranks.remote import find_mpiexec

TIMEOUT_SECONDS = 120
RANK = """
import numpy as np
from vamc_runtime.arrays import aligned_empty, as_tensor
from vamc_runtime.ranks.mpi import MpiGroup

group = MpiGroup()

def tensor(values):
    view = aligned_empty(values.nbytes).view(values.dtype).reshape(values.shape)
    view[...] = values
    return view, as_tensor(view)

def call(collective, values, shape):
    given, x = tensor(values)
    result, out = tensor(np.full(shape, np.nan, np.float32))
    getattr(group, collective)(x, out)
    assert np.array_equal(given, values), "the input stays"
    return result

def values(rank):
    return np.random.default_rng(rank).standard_normal((5, 3)).astype(np.float32)

every = [values(rank) for rank in range(group.num_ranks)]
mine = every[group.rank]
np.testing.assert_allclose(call("all_reduce", mine, mine.shape), sum(every), rtol=1e-5, atol=1e-6)
np.testing.assert_array_equal(call("all_reduce_max", mine[:, :1], (5, 1)), np.max(every, axis=0)[:, :1])
np.testing.assert_array_equal(call("all_reduce_max", mine, mine.shape), np.max(every, axis=0))
np.testing.assert_array_equal(call("all_gather", mine, (5, 3 * group.num_ranks)), np.concatenate(every, axis=1))
print("agreed", flush=True)
"""


@pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="needs mpi4py and an MPI library")
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_collectives(num_ranks: int, tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK, encoding="utf-8")
    done = subprocess.run(
        [find_mpiexec(), "-n", str(num_ranks), sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("agreed") == num_ranks  # lines of several ranks may run into one another
