"""Errors along the depth of the model: what each block adds to the error, and which operation in it is to blame.

Accumulated error: both stages run on their own, and their streams are compared. Isolated error: `after` is fed the
stream of `before` in front of every block, so that each block shows its own error and nothing else's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vamc_compiler.verify.metrics import root_mean_square, token_errors
from vamc_compiler.verify.result import BlockError, Location
from vamc_compiler.verify.run import Array, Run, TapValue, taken_columns, true_columns
from vamc_compiler.verify.taps import LOGITS, Block, Columns, TapPlan

_BLAME_SHARE = 0.3
"""The first tap with this share of the block's largest error is where it comes from: later ones inherit it."""


def stream_at(run: Run, tap: str) -> Array | None:
    """The stream float32 [t, w] at a block's end; the logits behind the head."""
    if tap == LOGITS:
        return run.logits
    value = run.taps.get(tap)
    return None if value is None else value.whole()


def _added(run: Run, block: Block) -> Array | None:
    """What a block adds to the stream; the whole where nothing was there before."""
    end = stream_at(run, block.end)
    begin = stream_at(run, block.begin) if block.begin and block.end != LOGITS else None
    return end if end is None or begin is None else end - begin


def block_errors(plan: TapPlan, before: Run, after: Run, forced: Run | None) -> list[BlockError]:
    """Errors of every block whose stream both stages have.

    Args:
        plan: the blocks.
        before: the run to compare with.
        after: the other stage, on its own.
        forced: the other stage, fed the streams of `before`; None where that was not run.
    """
    result = []
    for block in plan.blocks:
        expected, found = stream_at(before, block.end), stream_at(after, block.end)
        added = _added(before, block)
        if expected is None or found is None or added is None:
            continue
        accumulated = root_mean_square(found - expected) / max(root_mean_square(expected), 1e-30)
        isolated = None if forced is None else stream_at(forced, block.end)
        errors = None if isolated is None else token_errors(isolated - expected, added)
        result.append(
            BlockError(
                index=block.index,
                block=block.name,
                tap=block.end,
                accumulated=accumulated,
                isolated=None if errors is None else float(errors.max()),
                isolated_rms=None if errors is None else root_mean_square(errors),
                worst_token=None if errors is None else int(errors.argmax()),
            )
        )
    return result


def merge_errors(sequences: Sequence[Sequence[BlockError]]) -> tuple[BlockError, ...]:
    """The errors over several sequences: each block's worst."""
    merged = []
    for errors in zip(*sequences, strict=True):
        worst = max(errors, key=lambda error: error.isolated or 0.0)
        merged.append(
            BlockError(
                index=worst.index,
                block=worst.block,
                tap=worst.tap,
                accumulated=max(error.accumulated for error in errors),
                isolated=worst.isolated,
                isolated_rms=max((e.isolated_rms for e in errors if e.isolated_rms is not None), default=None),
                worst_token=worst.worst_token,
            )
        )
    return tuple(merged)


@dataclass(frozen=True)
class BlockLimit:
    """What a block's own error may be."""

    worst: float
    """Of any token."""
    rms: float = math.inf
    """Root mean square over tokens: a small error of every token is a fault where a larger one of a few is chance."""

    def kept_by(self, error: BlockError) -> bool:
        """Whether a block is within the limit; one that was not measured is."""
        if error.isolated is None or error.isolated_rms is None:
            return True
        return error.isolated <= self.worst and error.isolated_rms <= self.rms


def first_wrong(errors: Sequence[BlockError], limit: BlockLimit) -> BlockError | None:
    """The first block whose own error exceeds the limit."""
    return next((error for error in errors if not limit.kept_by(error)), None)


@dataclass(frozen=True)
class TapError:
    """Error of one tapped value within a block."""

    tap: str
    op: str
    worst: float
    """Largest over tokens and ranks."""
    by_rank: tuple[float, ...]
    """Largest over tokens, for each part; one entry where the value is whole."""


def _error(expected: Array, found: Array) -> float:
    """Largest over tokens; of nothing but padding there is none."""
    return float(token_errors(found - expected, expected).max()) if expected.shape[1] else 0.0


def _part_errors(before: TapValue, after: TapValue) -> tuple[float, ...]:
    """Error of every part that the stage's ranks hold."""
    expected = before.whole()
    if after.columns is None:
        return (_error(expected, after.parts[0]),)
    return tuple(
        _error(taken_columns(expected, pieces), true_columns(part, pieces))
        for part, pieces in zip(after.parts, after.columns, strict=True)
    )


def _logit_errors(before: Array, after: Array, columns: Columns | None) -> tuple[float, ...]:
    """Error of the logits that every rank's head computed."""
    if columns is None:
        return (_error(before, after),)
    return tuple(_error(taken_columns(before, pieces), taken_columns(after, pieces)) for pieces in columns)


def tap_errors(plan: TapPlan, block: int, before: Run, forced: Run) -> list[TapError]:
    """Errors of the values within a block, in the order of computation; those that both stages have."""
    result = []
    for name in plan.inside(block):
        if name in before.taps and name in forced.taps:
            by_rank = _part_errors(before.taps[name], forced.taps[name])
            result.append(TapError(name, plan.taps[name].op, max(by_rank), by_rank))
    if plan.blocks[block].end == LOGITS:
        logits = _logit_errors(before.logits, forced.logits, forced.logit_columns)
        result.append(TapError(LOGITS, _head(plan), max(logits), logits))
    return result


def _head(plan: TapPlan) -> str:
    linears = [reader.path for reader in plan.readers.values() if reader.kind == "linear"]
    return f"Linear {linears[-1]}" if linears else "head"


def blame(errors: Sequence[TapError], limit: float) -> TapError | None:
    """The first value that is wrong; None when there is none to look at."""
    if not errors:
        return None
    threshold = min(limit, _BLAME_SHARE * max(error.worst for error in errors))
    return next(error for error in errors if not error.worst < threshold)


def wrong_ranks(error: TapError, limit: float) -> tuple[int, ...]:
    """The ranks whose part is wrong; none where the value is whole or all are."""
    if len(error.by_rank) == 1:
        return ()
    threshold = min(limit, _BLAME_SHARE * error.worst)
    wrong = tuple(rank for rank, value in enumerate(error.by_rank) if not value < threshold)
    return () if len(wrong) == len(error.by_rank) else wrong


def missing_sum(plan: TapPlan, block: int, before: Run, forced: Run, error: TapError | None) -> str:
    """The tap of a sum over ranks that the other stage never computed, where nothing before it is wrong; empty if none.

    The value that is wrong is then a later one that inherits it; the sum itself does not exist to be looked at.
    """
    for name in plan.inside(block):
        if error is not None and name == error.tap:
            return ""
        if name in plan.sums and name in before.taps and name not in forced.taps:
            return name
    return ""


def locate(stage: str, block: str, error: TapError | None, limit: float, never_summed: str = "") -> Location:
    """Where a pair goes wrong, for people.

    Args:
        stage: the stage that is wrong.
        block: the block.
        error: the value to blame.
        limit: what its error may be.
        never_summed: see `missing_sum`.
    """
    if never_summed:
        op = f"AllReduce {never_summed.removesuffix('.out')}"
        return Location(stage=stage, block=block, op=op, detail="the sum over ranks is never computed")
    if error is None:
        return Location(stage=stage, block=block)
    return Location(
        stage=stage,
        block=block,
        op=error.op,
        ranks=wrong_ranks(error, limit),
        detail=f"error {error.worst:.2g} at {error.tap}",
    )
