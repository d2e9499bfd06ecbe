"""Errors of blocks on runs made by hand: each block shows its own, and the right value and rank are blamed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from made_up_runs import PLAN, STREAMS, MadeUpStage, scaled, scaled_columns

from vamc_compiler.sharding import Piece
from vamc_compiler.verify.blocks import (
    BlockLimit,
    TapError,
    blame,
    block_errors,
    first_wrong,
    locate,
    merge_errors,
    missing_sum,
    stream_at,
    tap_errors,
    wrong_ranks,
)
from vamc_compiler.verify.result import BlockError
from vamc_compiler.verify.run import Run, TapValue
from vamc_compiler.verify.steps import plan_steps
from vamc_compiler.verify.taps import LOGITS

STEPS = plan_steps(range(20), [20], 16)
RIGHT = MadeUpStage().run(STEPS, PLAN.taps)
FED = {name: RIGHT.taps[name].whole() for name in STREAMS}


def errors_of(stage: MadeUpStage) -> list[BlockError]:
    return block_errors(PLAN, RIGHT, stage.run(STEPS, PLAN.taps), stage.run(STEPS, PLAN.taps, FED))


def test_what_is_right_has_no_error() -> None:
    errors = errors_of(MadeUpStage())
    assert [error.block for error in errors] == ["embedding", "layer 0", "layer 1", "head"]
    assert [error.tap for error in errors] == [*STREAMS, LOGITS]
    assert {(error.accumulated, error.isolated, error.isolated_rms) for error in errors} == {(0, 0, 0)}


@pytest.mark.parametrize(
    ("tap", "index"),
    [("norm0.in", 0), ("block0.outer.out", 1), ("block0.inner.out", 1), ("block1.outer.out", 2), (LOGITS, 3)],
)
def test_only_the_broken_block_has_an_error_of_its_own(tap: str, index: int) -> None:
    """What it adds is 1 % too much: its isolated error is 1 %, and the accumulated one stays from there on."""
    errors = errors_of(MadeUpStage(changes={tap: scaled(1.01)}))
    # Tokens to which the block adds less than the median count with the median: their error is smaller.
    assert errors[index].isolated == pytest.approx(0.01, rel=1e-3)
    isolated, rms = errors[index].isolated, errors[index].isolated_rms
    assert isolated is not None and rms is not None
    assert 0 < rms <= isolated
    for error in errors:
        if error.index != index:
            assert error.isolated == pytest.approx(0, abs=1e-6)
        assert (error.accumulated > 1e-5) == (error.index >= index)


def test_accumulated_error_is_that_of_the_stream() -> None:
    stage = MadeUpStage(changes={"block0.outer.out": scaled(1.2)})
    found = stage.run(STEPS, PLAN.taps)
    for error, name in zip(errors_of(stage)[1:3], STREAMS[1:], strict=True):
        expected, other = RIGHT.taps[name].whole().astype(float), found.taps[name].whole().astype(float)
        slow = math.sqrt(((other - expected) ** 2).sum() / (expected**2).sum())
        assert error.accumulated == pytest.approx(slow, rel=1e-5)


def test_without_a_forced_run() -> None:
    errors = block_errors(PLAN, RIGHT, RIGHT, None)
    assert {(error.isolated, error.isolated_rms, error.worst_token) for error in errors} == {(None, None, None)}
    assert first_wrong(errors, BlockLimit(0)) is None


def test_blocks_that_a_stage_does_not_show() -> None:
    partly = Run(RIGHT.logits, {name: RIGHT.taps[name] for name in ("norm0.in", "norm2.in")})
    assert [error.block for error in block_errors(PLAN, RIGHT, partly, None)] == ["embedding", "layer 1", "head"]
    assert [error.block for error in block_errors(PLAN, partly, RIGHT, None)] == ["embedding", "layer 1", "head"]
    assert stream_at(partly, "norm1.in") is None
    assert stream_at(partly, LOGITS) is RIGHT.logits


def test_massive_activations() -> None:
    """A token to which a block adds thousands of times the usual hides no error of another, and makes none."""

    def massive(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        array[3] *= 4000
        return array

    def massive_and_wrong(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        array = massive(array)
        array[7] *= 1.05
        return array

    before = MadeUpStage(changes={"block0.outer.out": massive}).run(STEPS, PLAN.taps)
    fed = {name: before.taps[name].whole() for name in STREAMS}
    rounded = MadeUpStage(changes={"block0.outer.out": lambda a: massive(a).astype(np.float16)})
    wrong = MadeUpStage(changes={"block0.outer.out": massive_and_wrong})
    errors = [
        block_errors(PLAN, before, stage.run(STEPS, PLAN.taps), stage.run(STEPS, PLAN.taps, fed))[1]
        for stage in (rounded, wrong)
    ]
    assert errors[0].isolated is not None and errors[0].isolated < 2e-3
    assert errors[1].isolated is not None and 0.01 < errors[1].isolated <= 0.0501
    assert errors[1].worst_token == 7


def test_a_token_to_which_a_block_adds_nothing() -> None:
    def nothing(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        array[4] = 1e-7
        return array

    def almost(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        array[4] = 2e-7
        return array

    before = MadeUpStage(changes={"block1.outer.out": nothing}).run(STEPS, PLAN.taps)
    fed = {name: before.taps[name].whole() for name in STREAMS}
    stage = MadeUpStage(changes={"block1.outer.out": almost})
    error = block_errors(PLAN, before, stage.run(STEPS, PLAN.taps), stage.run(STEPS, PLAN.taps, fed))[2]
    assert error.isolated is not None and error.isolated < 1e-5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_the_largest_error(bad: float) -> None:
    def break_one(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        array[5, 1] = bad
        return array

    with np.errstate(all="ignore"):
        errors = errors_of(MadeUpStage(changes={"block1.outer.out": break_one}))
    assert (errors[2].isolated, errors[2].isolated_rms, errors[2].accumulated) == (np.inf, np.inf, np.inf)
    assert errors[2].worst_token == 5
    assert first_wrong(errors, BlockLimit(1e9)) is errors[2]


def error(index: int, isolated: float | None, accumulated: float = 0.0, token: int = 0) -> BlockError:
    return BlockError(
        index=index,
        block=f"block {index}",
        tap="t",
        accumulated=accumulated,
        isolated=isolated,
        isolated_rms=isolated,
        worst_token=token,
    )


def test_the_worst_over_sequences() -> None:
    merged = merge_errors([[error(0, 0.1, 0.5, 3), error(1, None)], [error(0, 0.2, 0.4, 8), error(1, None)]])
    assert merged == (error(0, 0.2, 0.5, 8), error(1, None))


def test_the_first_wrong_block() -> None:
    errors = [error(0, 0.01), error(1, None), error(2, 0.03), error(3, 0.9)]
    assert first_wrong(errors, BlockLimit(0.02)) is errors[2]
    assert first_wrong(errors, BlockLimit(0.9)) is None
    assert first_wrong(errors, BlockLimit(0.9, rms=0.02)) is errors[2], "a small error of every token"
    assert first_wrong([error(0, math.nan)], BlockLimit(1.0)) is not None


def tap_errors_of(stage: MadeUpStage, block: int) -> list[TapError]:
    return tap_errors(PLAN, block, RIGHT, stage.run(STEPS, PLAN.taps, FED))


def test_the_first_wrong_value_is_blamed() -> None:
    for tap, op in (("block1.inner.out", "Linear inner1"), ("block1.outer.out", "Linear outer1")):
        errors = tap_errors_of(MadeUpStage(changes={tap: scaled(1.1)}), 2)
        assert [found.tap for found in errors] == ["block1.inner.out", "block1.outer.out", "norm2.in"]
        blamed = blame(errors, 1e-3)
        assert blamed is not None and (blamed.tap, blamed.op) == (tap, op)
        assert blamed.worst == pytest.approx(0.1, rel=1e-3)


def test_the_sum_itself_is_blamed_where_the_parts_are_right() -> None:
    blamed = blame(tap_errors_of(MadeUpStage(changes={"norm1.in": scaled(1.1)}), 1), 1e-3)
    assert blamed is not None and blamed.tap == "norm1.in"


def test_small_errors_before_a_large_one_are_not_blamed() -> None:
    """Rounding in the inner value, a fault in the outer one."""
    changes = {"block0.inner.out": scaled(1.0001), "block0.outer.out": scaled(1.5)}
    blamed = blame(tap_errors_of(MadeUpStage(changes=changes), 1), 1e-3)
    assert blamed is not None and blamed.tap == "block0.outer.out"


def test_the_head() -> None:
    errors = tap_errors_of(MadeUpStage(changes={LOGITS: scaled(2)}), 3)
    assert [(found.tap, found.op) for found in errors] == [
        ("norm2.out", "AddRMSNorm norm2"),
        (LOGITS, "Linear lm_head"),
    ]
    assert blame(errors, 1e-3) is errors[1]


def test_ranks_whose_part_is_wrong() -> None:
    """None is named where all are wrong."""
    for columns, ranks in ((slice(0, 2), (0,)), (slice(2, 4), (1,)), (slice(0, 4), ())):
        errors = tap_errors_of(MadeUpStage(changes={"block0.inner.out": scaled_columns(columns, 1.3)}), 1)
        blamed = blame(errors, 1e-3)
        assert blamed is not None and len(blamed.by_rank) == 2
        assert wrong_ranks(blamed, 1e-3) == ranks


def test_a_whole_value_names_no_rank() -> None:
    assert wrong_ranks(TapError("t", "op", 0.5, (0.5,)), 1e-3) == ()


def test_ranks_of_the_head() -> None:
    """Each rank's logits are its own."""
    columns = ((Piece(0, 20),), (Piece(20, 30),))
    logits = RIGHT.logits.copy()
    logits[:, 20:] *= 1.5
    found = tap_errors(PLAN, 3, RIGHT, Run(logits, RIGHT.taps, columns))[-1]
    assert found.by_rank[0] == 0 and found.by_rank[1] > 0.1
    assert wrong_ranks(found, 1e-3) == (1,)


def test_padding_is_not_compared() -> None:
    """A rank that has only padding is never wrong, whatever lies there."""
    columns = ((Piece(0, 4),), (Piece(None, 4),))
    value = RIGHT.taps["norm0.in"].whole()
    before = Run(RIGHT.logits, {"block0.inner.out": TapValue((value,))})
    after = Run(RIGHT.logits, {"block0.inner.out": TapValue((value, np.full_like(value, np.nan)), columns)})
    (found,) = tap_errors(PLAN, 1, before, after)
    assert found.by_rank == (0, 0) and found.worst == 0


def test_nothing_to_blame() -> None:
    assert blame([], 1e-3) is None
    assert tap_errors(PLAN, 1, RIGHT, Run(RIGHT.logits)) == []


def test_no_number_is_blamed_first() -> None:
    errors = [TapError("a", "A", 0.01, (0.01,)), TapError("b", "B", math.inf, (0.0, math.inf))]
    assert blame(errors, 0.02) is errors[1]
    assert wrong_ranks(errors[1], 0.02) == (1,)


@pytest.mark.parametrize(("wrong", "name"), [("norm1.in", "block0.outer.out"), ("block0.inner.out", "")])
def test_a_sum_that_is_never_computed(wrong: str, name: str) -> None:
    """It has no value to look at; it is named where everything before it is right."""
    forced = MadeUpStage(changes={wrong: scaled(1.5)}).run(STEPS, PLAN.taps, FED)
    taps = {tap: value for tap, value in forced.taps.items() if tap != "block0.outer.out"}
    without = Run(forced.logits, taps)
    blamed = blame(tap_errors(PLAN, 1, RIGHT, without), 1e-3)
    assert blamed is not None and blamed.tap == wrong
    assert missing_sum(PLAN, 1, RIGHT, without, blamed) == name
    assert missing_sum(PLAN, 1, without, without, blamed) == "", "the other stage does not show it either"
    assert missing_sum(PLAN, 1, RIGHT, forced, blamed) == ""


def test_places_for_people() -> None:
    place = locate("compiled", "layer 0", TapError("t", "Linear x", 0.25, (0.0, 0.25)), 1e-3)
    assert str(place) == "compiled, layer 0, Linear x, rank 1, error 0.25 at t"
    assert str(locate("compiled", "layer 0", None, 1e-3)) == "compiled, layer 0"
    place = locate("compiled", "layer 0", None, 1e-3, "model.down_proj.out")
    assert str(place) == "compiled, layer 0, AllReduce model.down_proj, the sum over ranks is never computed"
