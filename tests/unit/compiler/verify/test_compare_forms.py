"""One stage against another: what is run, what is remembered, and where a fault is found."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from made_up_runs import PLAN, MadeUpStage, scaled, scaled_columns, whole

from vamc_compiler.precision import ModelPrecision
from vamc_compiler.verify.blocks import BlockLimit
from vamc_compiler.verify.budgets import default_budget
from vamc_compiler.verify.compare import NUM_WORST_TOKENS, Form, Runner, Setting, compare_forms
from vamc_compiler.verify.result import PairResult
from vamc_compiler.verify.taps import LOGITS

BUDGET = default_budget(ModelPrecision(), bfloat16_prefill=False)
SEQUENCES = (tuple(range(20)), tuple(range(30, 45)))


def runner() -> Runner:
    return Runner(
        Setting(plan=PLAN, sequences=SEQUENCES, page_tokens=16, decode=lambda ids: "".join(f"<{i}>" for i in ids))
    )


def compare(*stages: MadeUpStage, limit: float = 1e-3) -> PairResult:
    before, after = (Form(stage=stage, chunks=whole) for stage in stages)
    return compare_forms(runner(), before, after, BUDGET, check="prefill", block_limit=BlockLimit(limit, limit))


def test_the_same_twice() -> None:
    result = compare(MadeUpStage("one"), MadeUpStage("other"))
    assert result.passed and result.location is None
    assert (result.before, result.after, result.check) == ("one", "other", "prefill")
    assert [line.name for line in result.budgets] == [
        "mean KL",
        "same top token where decided",
        "perplexity ratio",
        "largest block error",
        "largest block error, rms",
    ]
    assert [block.block for block in result.blocks] == ["embedding", "layer 0", "layer 1", "head"]
    assert result.kl == (0.0,) * 35
    assert result.metrics is not None and result.metrics.num_positions == 35


@pytest.mark.parametrize(
    ("tap", "block", "op"),
    [
        ("norm0.in", "embedding", "residual stream"),
        ("block0.inner.out", "layer 0", "Linear inner0"),
        ("block1.outer.out", "layer 1", "Linear outer1"),
        ("norm2.out", "head", "AddRMSNorm norm2"),
        (LOGITS, "head", "Linear lm_head"),
    ],
)
def test_a_fault_is_located(tap: str, block: str, op: str) -> None:
    result = compare(MadeUpStage("right"), MadeUpStage("wrong", {tap: scaled(1.01)}))
    assert not result.passed and result.location is not None
    assert (result.location.stage, result.location.block, result.location.op) == ("wrong", block, op)
    assert tap in result.location.detail


def test_the_rank_is_named() -> None:
    result = compare(MadeUpStage("right"), MadeUpStage("wrong", {"block1.inner.out": scaled_columns(slice(2, 4), 2)}))
    assert result.location is not None and result.location.ranks == (1,)


def test_a_fault_in_the_second_sequence() -> None:
    """The runs that are looked into are those in which it shows."""

    def break_short(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if len(array) == 15:
            array[11] *= 3
        return array

    result = compare(MadeUpStage("right"), MadeUpStage("wrong", {"block0.outer.out": break_short}))
    assert result.location is not None and result.location.op == "Linear outer0"
    assert result.blocks[1].worst_token == 11
    assert result.worst_tokens[0].position >= 11


def test_drift_that_no_block_is_to_blame_for() -> None:
    """Every block within its limit, the logits outside theirs."""
    stage = MadeUpStage("drifting", {name: scaled(1.02) for name in ("block0.outer.out", "block1.outer.out", LOGITS)})
    result = compare(MadeUpStage("right"), stage, limit=0.05)
    assert not result.passed and result.location is not None
    assert (result.location.block, result.location.op) == ("", "")
    assert "no block is wrong by itself" in result.location.detail


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_no_numbers(bad: float) -> None:
    def break_one(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        array[-1, 0] = bad
        return array

    with np.errstate(all="ignore"):
        result = compare(MadeUpStage("right"), MadeUpStage("wrong", {"block0.inner.out": break_one}))
    assert not result.passed and result.location is not None
    assert (result.location.op, result.location.ranks) == ("Linear inner0", (0,))
    assert result.worst_tokens[0].position in (19, 14)


def test_worst_tokens_as_text() -> None:
    def break_one(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        array[3] = -array[3]
        return array

    result = compare(MadeUpStage("right"), MadeUpStage("wrong", {LOGITS: break_one}))
    assert len(result.worst_tokens) == NUM_WORST_TOKENS
    kl = [token.kl for token in result.worst_tokens]
    assert kl == sorted(kl, reverse=True) and kl[1] > 0 == kl[2], "position 3 of each sequence"
    by_context = {token.context: token for token in result.worst_tokens[:2]}
    assert set(by_context) == {"<0><1><2><3>", "<30><31><32><33>"}
    token = by_context["<0><1><2><3>"]
    assert (token.position, token.actual) == (3, "<4>")
    assert token.expected != token.found


def test_the_last_token_has_no_successor() -> None:
    def break_last(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        array[-1] = -array[-1]
        return array

    result = compare(MadeUpStage("right"), MadeUpStage("wrong", {LOGITS: break_last}))
    assert {token.actual for token in result.worst_tokens[:2]} == {""}


def test_runs_are_remembered_and_forgotten() -> None:
    stage = MadeUpStage()
    form, other = Form(stage=stage, chunks=whole), Form(stage=stage, chunks=lambda n: [1] * n, label="token by token")
    kept = runner()
    first = kept.streams(form)
    assert kept.streams(form) is first and len(stage.calls) == 2
    assert kept.streams(other) is not first, "the same stage in another form"
    kept.forget(form)
    kept.forget(form)
    assert kept.streams(form) is not first


def test_only_the_checked_stage_is_fed() -> None:
    before, after = MadeUpStage("one"), MadeUpStage("other", {"block1.outer.out": scaled(1 + 1e-6)})
    compare(before, after)
    assert before.calls == [False, False]
    assert after.calls == [False, False, True, True]


def test_the_same_streams_need_no_feeding() -> None:
    after = MadeUpStage("other", {LOGITS: scaled(1.1)})
    result = compare(MadeUpStage("one"), after)
    assert after.calls[:2] == [False, False]
    assert [block.isolated for block in result.blocks] == pytest.approx([0, 0, 0, 0.1], rel=1e-3)


def test_names_of_forms() -> None:
    stage = MadeUpStage("graph")
    assert Form(stage=stage, chunks=whole).name == "graph"
    assert Form(stage=stage, chunks=whole, label="in chunks").name == "graph, in chunks"


def test_a_stage_is_not_taken_for_one_that_is_gone() -> None:
    """Python gives the address of what is gone to the next object: a stage stays as long as its runs are remembered."""
    runs, form = runner(), Form(stage=MadeUpStage(), chunks=whole)
    stage = weakref.ref(form.stage)
    runs.streams(form)
    del form
    gc.collect()
    kept = stage()
    assert kept is not None
    runs.forget(Form(stage=kept, chunks=whole))
    del kept
    gc.collect()
    assert stage() is None
