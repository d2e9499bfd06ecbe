"""Rank 0's executor: how it ends the other ranks, with and without a step that failed here."""

from __future__ import annotations

import numpy as np
import pytest

from vamc_runtime.executor import StepArguments
from vamc_runtime.ranks.mpi import MpiExecutor

ONE = np.array([1], np.int32)
STEP = StepArguments(ONE, ONE, ONE, ONE.reshape(1, 1), ONE)


class FakeGroup:
    """Notes what rank 0 tells the others."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def send_step(self, arguments: StepArguments | None) -> None:
        self.events.append("end" if arguments is None else "step")

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
    executor = MpiExecutor(group, FakeRank())
    assert executor.step(STEP).shape == (1, 4)
    executor.end()
    assert group.events == ["step", "end"]


@pytest.mark.parametrize(("error", "shown"), [(ValueError("broken"), True), (KeyboardInterrupt(), False)])
def test_ranks_left_inside_a_collective_are_aborted(
    error: BaseException, shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    group = FakeGroup()
    executor = MpiExecutor(group, FakeRank(error))
    with pytest.raises(SystemExit):
        try:
            executor.step(STEP)
        finally:
            executor.end()
    assert group.events == ["step", "abort"]
    assert ("broken" in capsys.readouterr().err) == shown
