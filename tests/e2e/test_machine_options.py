"""Threads and huge pages as a user sets them: the same text, the cores given back, and refusals one can act on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from e2e_tools import assert_user_error
from fixture_types import CompileDemo, Vamc

from vamc_runtime import LLM, SamplingParams, UserError
from vamc_runtime.machine import available_cores
from vamc_runtime.weights_memory import HugePages

PROMPT = "The capital of France"
GREEDY = SamplingParams(max_new_tokens=12)


@pytest.fixture(scope="module")
def expected(demo_runstream: Path) -> str:
    with LLM(demo_runstream) as llm:
        return llm.generate([PROMPT], GREEDY)[0].text


@pytest.mark.parametrize("huge_pages", ["auto", "on", "off"])
def test_weights_wherever_they_lie(demo_runstream: Path, expected: str, huge_pages: HugePages) -> None:
    with LLM(demo_runstream, huge_pages=huge_pages) as llm:
        assert llm.generate([PROMPT], GREEDY)[0].text == expected


def test_on_the_command_line(vamc: Vamc, demo_runstream: Path, expected: str) -> None:
    options = ["--threads", 1, "--huge-pages", "on", "--temperature", 0, "--max-new-tokens", 12]
    outcome = vamc("run", demo_runstream, "--prompt", PROMPT, *options)
    assert outcome.status == 0, outcome.errors
    assert outcome.output.startswith(expected)


def test_huge_pages_are_huge(demo_runstream: Path) -> None:
    with LLM(demo_runstream, huge_pages="on") as llm:
        assert llm._executor is not None
        assert llm._executor.on_every_rank(lambda rank: rank.placement.copied) == [True]
        (starts,) = llm._executor.on_every_rank(lambda rank: [pages.ctypes.data for pages in rank.kv_cache])
        assert starts and all(start % (2 << 20) == 0 for start in starts)


def test_progress_of_loading(demo_runstream: Path) -> None:
    heard = []
    with LLM(demo_runstream, on_load=lambda done, total: heard.append((done, total))):
        size = (demo_runstream / "rank_0" / "params.safetensors").stat().st_size
        assert heard[0] == (0, size) and heard[-1] == (size, size)


def test_the_calling_thread_keeps_its_cores(demo_runstream: Path) -> None:
    before = os.sched_getaffinity(0)
    with LLM(demo_runstream) as llm:
        assert os.sched_getaffinity(0) == before
        llm.generate([PROMPT], GREEDY)
        assert os.sched_getaffinity(0) == before
    assert os.sched_getaffinity(0) == before


def test_more_threads_than_cores(vamc: Vamc, demo_runstream: Path) -> None:
    count = len(available_cores()) + 1
    assert_user_error(vamc("run", demo_runstream, "--prompt", "a", "--threads", count), f"{count} threads on")
    with pytest.raises(UserError, match="num_threads is 0"):
        LLM(demo_runstream, num_threads=0)


def test_more_threads_than_a_ranks_share(vamc: Vamc, compile_demo: CompileDemo) -> None:
    count = len(available_cores()) // 2 + 1
    outcome = vamc("run", compile_demo("llama-mini", tp=2), "--prompt", "a", "--threads", count)
    assert_user_error(outcome, "rank 0", f"{count} threads on", "share of one of 2 ranks")
