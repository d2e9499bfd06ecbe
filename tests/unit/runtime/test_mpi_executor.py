"""Rank 0's executor: how it ends the other ranks, with and without a step that failed here."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from vamc_runtime.errors import UserError
from vamc_runtime.executor import StepArguments
from vamc_runtime.ranks.mpi import MpiExecutor, MpiGroup, Task

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

    def abort(self, error: BaseException) -> None:
        self.events.append(f"abort: {type(error).__name__}")
        raise SystemExit(1)  # MPI's own ends the process


class FakeRank:
    """A local rank whose step answers, or raises."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def step(self, arguments: StepArguments) -> npt.NDArray[Any]:
        if self.error is not None:
            raise self.error
        return np.zeros((1, 4), np.float32)


def test_the_others_are_told_the_end() -> None:
    group = FakeGroup()
    executor = MpiExecutor(cast(Any, group), cast(Any, FakeRank()))
    assert executor.step(STEP).shape == (1, 4)
    executor.end()
    assert group.events == ["step", "end"]


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_ranks_left_inside_a_collective_are_aborted(error: BaseException) -> None:
    group = FakeGroup()
    executor = MpiExecutor(cast(Any, group), cast(Any, FakeRank(error)))
    with pytest.raises(SystemExit):
        try:
            executor.step(STEP)
        finally:
            executor.end()
    assert group.events == ["step", f"abort: {type(error).__name__}"]


class Ended(BaseException):
    """What a process does upon MPI_Abort."""


class FakeWorld:
    """MPI's communicator of all ranks, as far as `abort` needs it."""

    def Abort(self, status: int) -> None:  # noqa: N802  # mpi4py's name
        self.status = status
        raise Ended


@pytest.mark.parametrize(
    ("error", "raised", "status", "shown"),
    [
        (ValueError("broken"), None, 1, True),
        (KeyboardInterrupt(), None, 130, False),
        (SystemExit(143), None, 143, False),
        (SystemExit(), None, 1, False),
        (RuntimeError("143"), SystemExit(143), 143, False),
        (RuntimeError(""), KeyboardInterrupt(), 130, False),
        (RuntimeError("broken"), ValueError("broken"), 1, True),
    ],
)
def test_an_abort_shows_faults_and_not_that_somebody_asked_for_the_end(
    error: BaseException,
    raised: BaseException | None,
    status: int,
    shown: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Signals are raised within a collective, and come out of compiled code as errors of another type."""
    group = object.__new__(MpiGroup)
    world = FakeWorld()
    group._comm, group.raised = world, raised
    with pytest.raises(Ended):
        group.abort(error)
    assert world.status == status
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
