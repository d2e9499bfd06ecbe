"""Rank 0's executor: how it ends the other ranks, with and without a step that failed here."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from vamc_runtime.errors import UserError
from vamc_runtime.executor import StepArguments
from vamc_runtime.ranks.mpi import MpiExecutor, Task

ONE = np.array([1], np.int32)
STEP = StepArguments(ONE, ONE, ONE, ONE.reshape(1, 1), ONE)


class FakeGroup:
    """Notes what rank 0 tells the others."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.other_result: object = "rank 1"

    def send_work(self, work: StepArguments | Task | None) -> None:
        self.events.append("end" if work is None else "step" if isinstance(work, StepArguments) else "task")

    def run_together(self, task: Task, local: FakeRank) -> list[Any]:
        return [task(cast(Any, local)), self.other_result]

    def abort(self) -> None:
        self.events.append("abort")
        raise SystemExit(1)  # MPI's own ends the process


class FakeRank:
    """A local rank whose step answers, or raises."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def step(self, arguments: StepArguments) -> np.ndarray:
        if self.error is not None:
            raise self.error
        return np.zeros((1, 4), np.float32)


def test_the_others_are_told_the_end() -> None:
    group = FakeGroup()
    executor = MpiExecutor(cast(Any, group), cast(Any, FakeRank()))
    assert executor.step(STEP).shape == (1, 4)
    executor.end()
    assert group.events == ["step", "end"]


@pytest.mark.parametrize(("error", "shown"), [(ValueError("broken"), True), (KeyboardInterrupt(), False)])
def test_ranks_left_inside_a_collective_are_aborted(
    error: BaseException, shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    group = FakeGroup()
    executor = MpiExecutor(cast(Any, group), cast(Any, FakeRank(error)))
    with pytest.raises(SystemExit):
        try:
            executor.step(STEP)
        finally:
            executor.end()
    assert group.events == ["step", "abort"]
    assert ("broken" in capsys.readouterr().err) == shown


def test_a_task_runs_on_every_rank() -> None:
    group, rank = FakeGroup(), FakeRank()
    executor = MpiExecutor(cast(Any, group), cast(Any, rank))
    assert executor.on_every_rank(lambda local: cast(Any, local) is rank) == [True, "rank 1"]
    executor.end()
    assert group.events == ["task", "end"]


def test_a_mistake_of_the_user_on_another_rank_is_raised_and_ends_nothing() -> None:
    group = FakeGroup()
    group.other_result = UserError("rank 1 has an old library")
    executor = MpiExecutor(cast(Any, group), cast(Any, FakeRank()))
    with pytest.raises(UserError, match="old library"):
        executor.on_every_rank(id)
    executor.end()
    assert group.events == ["task", "end"], "no rank waits inside a collective"
