"""A rank is opened, driven and closed by one thread, whoever calls; calls take turns, and errors reach their caller."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from vamc_runtime.executor import Ranks, StepArguments
from vamc_runtime.own_thread import OwnThread
from vamc_runtime.weights_memory import OnLoad

ONE = np.array([1], np.int32)
STEP = StepArguments(ONE, ONE, ONE, ONE.reshape(1, 1), ONE)


class FakeRank:
    """Notes which threads use it, and that it is never used by two at a time."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.events: list[str] = []
        self._busy = threading.Lock()

    def step(self, arguments: StepArguments) -> npt.NDArray[Any]:
        assert self._busy.acquire(blocking=False), "used by two at a time"
        self.threads.append(threading.get_ident())
        time.sleep(0.001)
        self._busy.release()
        return np.full((1, 2), arguments.input_ids[0], np.float32)

    def on_every_rank(self, task: Callable[[Any], Any]) -> list[Any]:
        return [task(self)]

    @contextlib.contextmanager
    def open(self, on_load: OnLoad) -> Iterator[Ranks]:
        self.threads.append(threading.get_ident())
        on_load(0, 2)
        on_load(2, 2)
        yield cast(Any, self)
        self.threads.append(threading.get_ident())
        self.events.append("closed")


@pytest.fixture
def rank() -> FakeRank:
    return FakeRank()


def test_one_thread_does_it_all(rank: FakeRank) -> None:
    heard: list[tuple[int, int]] = []
    results: list[float] = []

    def use(token: int) -> None:
        for _ in range(20):
            arguments = STEP._replace(input_ids=np.array([token], np.int32))
            results.append(float(executor.step(arguments)[0, 0]) - token)

    with OwnThread(rank.open, lambda done, total: heard.append((done, total))) as executor:
        threads = [threading.Thread(target=use, args=(token,)) for token in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert executor.on_every_rank(lambda local: id(local) == id(rank)) == [True]
    assert results == [0.0] * 80, "everybody got the own answer"
    assert heard == [(0, 2), (2, 2)]
    assert len(set(rank.threads)) == 1 and threading.get_ident() not in rank.threads
    assert rank.events == ["closed"]


def test_errors_reach_the_caller_and_end_nothing(rank: FakeRank) -> None:
    def fail(local: object) -> None:
        raise LookupError("broken")

    with OwnThread(rank.open) as executor:
        with pytest.raises(LookupError, match="broken"):
            executor.on_every_rank(fail)
        assert executor.step(STEP).shape == (1, 2)


def test_an_error_of_opening() -> None:
    @contextlib.contextmanager
    def fail(on_load: OnLoad) -> Iterator[Ranks]:
        raise LookupError("no such library")
        yield

    with pytest.raises(LookupError, match="no such library"), OwnThread(fail):
        pytest.fail("opened")


@pytest.fixture
def interrupt() -> Iterator[Callable[[float], None]]:
    """Ctrl-C after so many seconds."""

    def handler(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    yield lambda seconds: cast(None, signal.setitimer(signal.ITIMER_REAL, seconds))
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_an_interrupted_caller_gets_no_answer_and_the_next_one_its_own(
    rank: FakeRank, interrupt: Callable[[float], None]
) -> None:
    def slow(local: object) -> str:
        time.sleep(0.5)
        return "slow"

    with OwnThread(rank.open) as executor:
        interrupt(0.1)
        with pytest.raises(KeyboardInterrupt):
            executor.on_every_rank(slow)
        assert executor.on_every_rank(lambda local: "next") == ["next"]
    assert rank.events == ["closed"]


def test_loading_stops_when_it_is_interrupted(interrupt: Callable[[float], None]) -> None:
    told = []

    @contextlib.contextmanager
    def load(on_load: OnLoad) -> Iterator[Ranks]:
        for part in range(10_000):
            on_load(part, 10_000)
            told.append(part)
            time.sleep(0.01)
        raise AssertionError("loaded to the end")
        yield

    interrupt(0.2)
    with pytest.raises(KeyboardInterrupt), OwnThread(load):
        pytest.fail("opened")
    assert 0 < len(told) < 10_000


def test_a_forked_process_leaves_the_thread_alone(rank: FakeRank) -> None:
    with OwnThread(rank.open) as executor:
        child = os.fork()
        if child == 0:
            executor.__exit__(None, None, None)  # would wait for ever for a thread that is not here
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert executor.step(STEP).shape == (1, 2)


def test_a_program_that_never_closes_it_ends() -> None:
    code = (
        "import contextlib\nfrom vamc_runtime.own_thread import OwnThread\n"
        "@contextlib.contextmanager\ndef opened(on_load):\n    yield\n    print('closed')\n"
        "OwnThread(opened).__enter__()\nraise SystemExit(5)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (5, "closed\n"), done.stderr
