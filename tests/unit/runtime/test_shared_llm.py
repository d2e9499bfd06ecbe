"""One `LLM` used by several threads, and by a process forked from its own: right, or refused."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import cast

import fake_runstream as fake
import numpy as np
import numpy.typing as npt
import pytest
from fake_executor import FakeExecutor

from vamc_runtime import LLM, SamplingParams, UserError, engine
from vamc_runtime.engine import Piece
from vamc_runtime.executor import StepArguments
from vamc_runtime.ranks.options import RankOptions
from vamc_runtime.runstream import Runstream

PROMPTS = [[7], [1, 2, 3, 4, 5], [9, 8], [5] * 9]
PARAMS = SamplingParams(max_new_tokens=12)


class OneAtATime(FakeExecutor):
    """Fails where two threads are in a step; `entered` and `go_on` let a test stop one there."""

    busy = threading.Lock()
    closed = False
    entered = threading.Event()
    go_on = threading.Event()

    def step(self, arguments: StepArguments) -> npt.NDArray[np.float32]:
        assert not self.closed, "a step after the end"
        assert self.busy.acquire(blocking=False), "two threads are in a step"
        try:
            self.entered.set()
            self.go_on.wait()
            return super().step(arguments)
        finally:
            self.busy.release()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    OneAtATime.entered.clear()
    OneAtATime.go_on.set()

    @contextlib.contextmanager
    def open_executor(runstream: Runstream, options: RankOptions, on_load: object) -> Iterator[FakeExecutor]:
        executor = OneAtATime(runstream.manifest, options.num_pages)
        yield executor
        executor.closed = True

    monkeypatch.setattr(engine, "open_executor", open_executor)
    fake.build(tmp_path)
    return tmp_path


def run_threads(*works: object) -> None:
    threads = [threading.Thread(target=work) for work in works]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_threads_get_their_own_texts(path: Path) -> None:
    with LLM(path, kv_cache_tokens=24) as llm:  # room for one prompt at a time
        expected = [llm.generate([prompt], PARAMS)[0].token_ids for prompt in PROMPTS]
        rows = [llm.logits(prompt) for prompt in PROMPTS]
        found: Counter[str] = Counter()

        def work() -> None:
            for round_ in range(8):
                index = (threading.get_ident() + round_) % len(PROMPTS)
                right = llm.generate([PROMPTS[index]], PARAMS)[0].token_ids == expected[index]
                right = right and np.array_equal(llm.logits(PROMPTS[index]), rows[index])
                found["right" if right else "wrong"] += 1

        run_threads(*[work] * 4)
        assert found == {"right": 32}
        assert llm._allocator.num_free == llm._allocator.num_pages


def test_streams_of_threads_and_of_one_thread(path: Path) -> None:
    with LLM(path) as llm:
        expected = [list(llm.generate([prompt], PARAMS)[0].token_ids) for prompt in PROMPTS]

        def tokens(index: int) -> list[int]:
            return [piece.token_ids[0] for piece in llm.stream([PROMPTS[index]], PARAMS)]

        found: dict[int, list[int]] = {}
        run_threads(*[lambda index=index: found.update({index: tokens(index)}) for index in range(len(PROMPTS))])
        assert [found[index] for index in range(len(PROMPTS))] == expected
        both = zip(llm.stream([PROMPTS[0]], PARAMS), llm.stream([PROMPTS[1]], PARAMS), strict=True)
        pairs = [(first.token_ids[0], second.token_ids[0]) for first, second in both]
        assert [list(column) for column in zip(*pairs, strict=True)] == expected[:2]


def test_a_stream_does_not_outlive_its_context(path: Path) -> None:
    """Opened anew, the cache holds none of its tokens."""
    llm = LLM(path)
    with llm:
        expected = llm.generate([PROMPTS[1]], PARAMS)
        begun, fresh = llm.stream([PROMPTS[1]], PARAMS), llm.stream([PROMPTS[1]], PARAMS)
        next(begun)
    with llm:
        for stream in (begun, fresh):
            with pytest.raises(UserError, match="begun before the LLM was closed"):
                list(stream)
        assert llm._allocator.num_free == llm._allocator.num_pages
        assert llm.generate([PROMPTS[1]], PARAMS) == expected


def test_a_relative_path_means_the_same_after_a_change_of_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    llm = LLM(path.name)
    monkeypatch.chdir("/")
    assert llm._runstream.path == path


def test_a_stream_that_waits_for_its_caller_stops_no_other_thread(path: Path) -> None:
    with LLM(path) as llm:
        stream = llm.stream([PROMPTS[0]], PARAMS)
        next(stream)
        done: list[object] = []
        run_threads(lambda: done.append(llm.generate([PROMPTS[1]], PARAMS)))
        assert done and len(list(stream)) == 11


def test_closing_waits_for_the_step_of_another_thread_and_no_longer(path: Path) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            llm.generate([PROMPTS[0]], SamplingParams(max_new_tokens=50))
        except UserError as error:
            errors.append(error)

    with LLM(path) as llm:
        OneAtATime.entered.clear()
        OneAtATime.go_on.clear()
        thread = threading.Thread(target=work)
        thread.start()
        assert OneAtATime.entered.wait(60)
        threading.Timer(0.1, OneAtATime.go_on.set).start()
    thread.join(60)
    assert len(errors) == 1 and "not open" in str(errors[0])


def test_opening_twice(path: Path) -> None:
    with LLM(path) as llm:
        with pytest.raises(UserError, match="open already"), llm:
            pytest.fail("opened twice")
        assert llm.generate([PROMPTS[0]], PARAMS)
    with llm:
        assert llm.generate([PROMPTS[0]], PARAMS), "opened again after it was closed"


def in_child(llm: LLM) -> None:
    for use in (
        lambda: llm.generate([[1]], PARAMS),
        lambda: next(llm.stream([[1]], PARAMS)),
        lambda: llm.logits([1]),
    ):
        with pytest.raises(UserError, match="forked from it") as caught:
            use()
        assert "spawn" in caught.value.fix


def test_a_forked_process_is_refused(path: Path) -> None:
    with LLM(path) as llm:
        expected = llm.generate([PROMPTS[0]], PARAMS)
        child = multiprocessing.get_context("fork").Process(target=in_child, args=(llm,))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert llm.generate([PROMPTS[0]], PARAMS) == expected


@pytest.mark.parametrize("is_locked", [False, True], ids=["idle", "in a step of another thread"])
def test_a_fork_that_leaves_the_context_closes_nothing(path: Path, is_locked: bool) -> None:
    with LLM(path) as llm:
        stream = cast(Generator[Piece, None, None], llm.stream([PROMPTS[0]], PARAMS))
        next(stream)
        thread = threading.Thread(target=lambda: llm.generate([PROMPTS[1]], PARAMS))
        if is_locked:
            OneAtATime.entered.clear()
            OneAtATime.go_on.clear()
            thread.start()
            assert OneAtATime.entered.wait(60)
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                with contextlib.suppress(UserError):
                    next(stream)
                stream.close()
                llm.__exit__(None, None, None)
                status = 0
            os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        OneAtATime.go_on.set()
        if is_locked:
            thread.join(60)
        assert len(list(stream)) == 11
    assert llm._executor is None


def test_opening_in_a_forked_process(path: Path) -> None:
    llm = LLM(path)

    def use() -> None:
        with llm:
            assert llm.generate([PROMPTS[0]], PARAMS)

    child = multiprocessing.get_context("fork").Process(target=use)
    child.start()
    child.join(60)
    assert child.exitcode == 0
