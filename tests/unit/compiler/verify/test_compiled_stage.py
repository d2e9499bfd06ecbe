"""Compiled code, watched through the VM's instrument: the same values as in the graph, and nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from stage_checks import check_chunks, check_forcing, check_nothing_tapped
from tiny_builds import SEQUENCE, TinyBuild, assert_same_runs, build_of, steps_of

from vamc_compiler.graph import PAGE_TOKENS
from vamc_compiler.verify.compiled_stage import CompiledStage
from vamc_compiler.verify.instrument import TapSteps
from vamc_compiler.verify.run import Run
from vamc_compiler.verify.steps import plan_steps
from vamc_compiler.verify.subject import Subject
from vamc_compiler.verify.taps import TapPlan
from vamc_runtime import LLM, SamplingParams
from vamc_runtime.runstream import open_runstream

TOLERANCE = 1e-3


def opened(subject: Subject, plan: TapPlan, max_tokens: int = 64) -> CompiledStage:
    return CompiledStage("compiled", open_runstream(subject.runstream), plan, max_tokens=max_tokens)


@pytest.fixture(scope="module")
def stage(compiled: Subject, one_rank: TinyBuild) -> Iterator[CompiledStage]:
    with opened(compiled, one_rank.plan) as stage:
        yield stage


@pytest.fixture(scope="module")
def expected(one_rank: TinyBuild) -> Run:
    return one_rank.graph_stage().run(steps_of(), one_rank.plan.taps)


def test_taps_as_in_the_graph(stage: CompiledStage, one_rank: TinyBuild, expected: Run) -> None:
    """All of them; rows of 24 values that are stored with more are cut."""
    assert_same_runs(stage.run(steps_of(), one_rank.plan.taps), expected, TOLERANCE)


def test_chunks(stage: CompiledStage, one_rank: TinyBuild) -> None:
    check_chunks(stage, one_rank.plan, TOLERANCE)


def test_watching_changes_nothing(stage: CompiledStage, one_rank: TinyBuild) -> None:
    check_nothing_tapped(stage, one_rank.plan)
    watched, alone = stage.run(steps_of(10), one_rank.plan.taps), stage.run(steps_of(10))
    assert np.array_equal(watched.logits, alone.logits)


@pytest.mark.parametrize("chunk_tokens", [37, 10, 1])
def test_forced_streams(stage: CompiledStage, one_rank: TinyBuild, chunk_tokens: int) -> None:
    check_forcing(stage, one_rank.plan, TOLERANCE, chunk_tokens)


def test_forcing_without_a_tap(stage: CompiledStage, one_rank: TinyBuild) -> None:
    name = one_rank.plan.streams[-1]
    nothing = {name: np.zeros((len(SEQUENCE), 24), np.float32)}
    assert not stage.run(steps_of(), (), nothing).logits.any()


def test_int8_leaves_out_what_no_kernel_writes(compiled_int8: Subject) -> None:
    """A kernel that quantizes for the next layer writes no float32 rows."""
    build = build_of(compiled_int8)
    expected = build.graph_stage().run(steps_of(), build.plan.taps)
    with opened(compiled_int8, build.plan) as stage:
        found = stage.run(steps_of(), build.plan.taps)
        check_forcing(stage, build.plan, 2e-2)
    path = "model.layers.0."
    assert set(expected.taps) - set(found.taps) == {
        f"{path}input_layernorm.out",
        f"{path}post_attention_layernorm.out",
        f"{path}mlp.down_proj.in",
    }
    shared = {name: value for name, value in expected.taps.items() if name in found.taps}
    assert_same_runs(found, Run(expected.logits, shared), TOLERANCE)


def test_an_error_in_the_instrument_is_raised(stage: CompiledStage, one_rank: TinyBuild) -> None:
    """The VM would swallow it; the next run is as ever."""
    before = stage.run(steps_of()).logits
    assert stage._ranks is not None
    task = TapSteps(steps=steps_of(), readers=one_rank.plan.readers, attention={}, wanted=frozenset(one_rank.plan.taps))
    with pytest.raises(KeyError):
        stage._ranks.on_every_rank(task)
    assert np.array_equal(stage.run(steps_of()).logits, before)


def test_streams_of_another_width_are_refused(stage: CompiledStage, one_rank: TinyBuild) -> None:
    with pytest.raises(ValueError, match="broadcast"):
        stage.run(steps_of(), (), {one_rank.plan.streams[0]: np.zeros((len(SEQUENCE), 7), np.float32)})


def test_the_cache_is_cleared_between_runs(stage: CompiledStage) -> None:
    """What an earlier sequence left in a page must not stand in for what was not written."""
    executors: list[Any] = []
    assert stage._ranks is not None
    stage._ranks.on_every_rank(executors.append)
    (executor,) = executors
    for pages in executor.kv_cache:
        pages[...] = np.nan
    stage.run(plan_steps(SEQUENCE[:5], [5], PAGE_TOKENS))
    for pages in executor.kv_cache:
        assert np.isfinite(pages).all()
        written = 2 * pages.shape[2] * 5 * pages.shape[4]  # keys and values of 5 tokens
        assert np.count_nonzero(pages) == np.count_nonzero(pages[0]) == written


@pytest.mark.parametrize("prompt", [SEQUENCE[:9], SEQUENCE[:1], SEQUENCE[:29]])
def test_greedy_tokens_are_those_of_the_runtime(
    stage: CompiledStage, compiled: Subject, prompt: tuple[int, ...]
) -> None:
    chosen, logits = stage.greedy(prompt, 20)
    with LLM(compiled.runstream) as llm:
        sampling = SamplingParams(max_new_tokens=20, temperature=0, ignore_eos=True)
        (output,) = llm.generate([list(prompt)], sampling)
    assert chosen == list(output.token_ids)
    assert logits.shape == (20, 50)
    assert logits.argmax(-1).tolist() == chosen
    again = stage.run(plan_steps([*prompt, *chosen[:-1]], [len(prompt) + 19], PAGE_TOKENS))
    np.testing.assert_allclose(again.logits[len(prompt) - 1 :], logits, atol=1e-2)


def test_only_while_it_is_open(compiled: Subject, one_rank: TinyBuild) -> None:
    closed = opened(compiled, one_rank.plan)
    with pytest.raises(AssertionError, match="context manager"):
        closed.run(steps_of())
    with closed:
        pass
    with pytest.raises(AssertionError, match="context manager"):
        closed.greedy([1], 1)


def test_as_many_pages_as_the_longest_sequence(compiled: Subject, one_rank: TinyBuild) -> None:
    with opened(compiled, one_rank.plan, max_tokens=33) as stage:
        assert stage._ranks is not None
        (pages,) = stage._ranks.on_every_rank(lambda executor: len(executor.kv_cache[0]))
    assert pages == 3
