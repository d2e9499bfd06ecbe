"""One stage against another: figures, bounds, and where it goes wrong when they are exceeded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vamc_compiler.verify.blocks import (
    BlockLimit,
    TapError,
    blame,
    block_errors,
    first_wrong,
    locate,
    merge_errors,
    missing_sum,
    tap_errors,
)
from vamc_compiler.verify.budgets import Budget, block_lines, logit_lines
from vamc_compiler.verify.metrics import compare_logits
from vamc_compiler.verify.result import BlockError, Location, PairResult, WorstToken
from vamc_compiler.verify.run import Array, Run, Stage
from vamc_compiler.verify.steps import plan_steps
from vamc_compiler.verify.taps import TapPlan

Chunks = Callable[[int], Sequence[int]]
"""From the tokens of a sequence to those of each step."""
NUM_WORST_TOKENS = 12
_CONTEXT_TOKENS = 24
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all comparisons of a verification share."""

    plan: TapPlan
    sequences: Sequence[Sequence[int]]
    page_tokens: int
    decode: Decode
    """Token ids to text."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """A stage with the way it gets the tokens."""

    stage: Stage
    chunks: Chunks
    label: str = ""
    """What distinguishes it from the same stage given all at once: `chunked prefill`."""

    @property
    def name(self) -> str:
        """For reports."""
        return f"{self.stage.name}, {self.label}" if self.label else self.stage.name

    @property
    def key(self) -> tuple[Stage, str]:
        """Tells forms apart whose names are the same.

        The stage itself, not its address: that of one which is gone is given to the next.
        """
        return self.stage, self.label


class Runner:
    """Runs forms on every sequence and remembers what they gave."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._kept: dict[tuple[Stage, str], list[Run]] = {}

    def streams(self, form: Form) -> list[Run]:
        """Logits and streams of every sequence."""
        if form.key not in self._kept:
            taps = self.setting.plan.streams
            self._kept[form.key] = [self.run(form, index, taps) for index in range(len(self.setting.sequences))]
        return self._kept[form.key]

    def run(self, form: Form, index: int, taps: Sequence[str], forced_by: Run | None = None) -> Run:
        """One sequence; fed the streams of another run where one is given."""
        sequence = self.setting.sequences[index]
        steps = plan_steps(sequence, form.chunks(len(sequence)), self.setting.page_tokens)
        forced = None
        if forced_by is not None:
            forced = {
                name: value.whole() for name, value in forced_by.taps.items() if name in self.setting.plan.streams
            }
        return form.stage.run(steps, taps, forced)

    def forget(self, form: Form) -> None:
        """Free the memory of a form's runs."""
        self._kept.pop(form.key, None)


def compare_forms(
    runner: Runner, before: Form, after: Form, budget: Budget, *, check: str, block_limit: BlockLimit
) -> PairResult:
    """Compare two forms on every sequence.

    Args:
        runner: runs them.
        before: what counts as right.
        after: what is checked.
        budget: bounds on the logits.
        check: for reports: `prefill`, `chunked prefill`, `cached decode`.
        block_limit: bound on every block's own error.
    """
    start = time.perf_counter()
    setting = runner.setting
    expected, found = runner.streams(before), runner.streams(after)
    forced = [_forced(runner, after, i, *runs) for i, runs in enumerate(zip(expected, found, strict=True))]
    errors = merge_errors([block_errors(setting.plan, *runs) for runs in zip(expected, found, forced, strict=True)])
    logits = [run.logits for run in expected], [run.logits for run in found]
    with np.errstate(all="ignore"):
        metrics, kl = compare_logits(*logits, setting.sequences, budget.decided_nats)
    budgets = (*logit_lines(metrics, budget), *block_lines(errors, block_limit))
    result = PairResult(
        before=before.name,
        after=after.name,
        check=check,
        budgets=budgets,
        metrics=metrics,
        blocks=errors,
        kl=tuple(map(float, kl)),
        worst_tokens=_worst_tokens(setting, np.concatenate(logits[0]), np.concatenate(logits[1]), kl),
    )
    location = None if result.passed else find_fault(runner, before, after, errors, block_limit)
    return replace(result, location=location, seconds=time.perf_counter() - start)


def _forced(runner: Runner, after: Form, index: int, expected: Run, found: Run) -> Run:
    """The checked stage, fed the other's streams; where it computed the very same ones, what it computed already."""
    streams = [tap for tap in runner.setting.plan.streams if tap in expected.taps and tap in found.taps]
    if streams and all(np.array_equal(expected.taps[tap].whole(), found.taps[tap].whole()) for tap in streams):
        return found
    return runner.run(after, index, runner.setting.plan.streams, expected)


def find_fault(runner: Runner, before: Form, after: Form, errors: Sequence[BlockError], limit: BlockLimit) -> Location:
    """The first block that is wrong by itself, and the first operation in it."""
    wrong = first_wrong(errors, limit)
    if wrong is None:
        most = max(errors, key=lambda error: error.accumulated, default=None)
        detail = "" if most is None else f"no block is wrong by itself; the error grows to {most.accumulated:.2g}"
        return Location(stage=after.name, detail=detail)
    return find_within(runner, before, after, wrong, limit)[2]


@dataclass(frozen=True)
class Inside:
    """The values within a block, the checked stage fed the other's stream."""

    sequence: Sequence[int]
    """Where the block is worst."""
    errors: list[TapError]
    expected: Run
    found: Run


def look_inside(runner: Runner, before: Form, after: Form, wrong: BlockError) -> Inside:
    """Run a block once more with all its taps."""
    plan = runner.setting.plan
    taps = (*plan.streams, *plan.inside(wrong.index))
    index = _worst_sequence(runner, before, after, wrong)
    expected = runner.run(before, index, taps)
    found = runner.run(after, index, taps, expected)
    errors = tap_errors(plan, wrong.index, expected, found)
    return Inside(runner.setting.sequences[index], errors, expected, found)


def find_within(
    runner: Runner, before: Form, after: Form, wrong: BlockError, limit: BlockLimit
) -> tuple[Inside, TapError | None, Location]:
    """What a wrong block looks like inside, the value to blame, and its place."""
    seen = look_inside(runner, before, after, wrong)
    error = blame(seen.errors, limit.worst)
    never_summed = missing_sum(runner.setting.plan, wrong.index, seen.expected, seen.found, error)
    return seen, error, locate(after.name, wrong.block, error, limit.worst, never_summed)


def _worst_sequence(runner: Runner, before: Form, after: Form, wrong: BlockError) -> int:
    """The sequence in which a block is wrong."""
    plan = runner.setting.plan
    worst, chosen = -1.0, 0
    for index, expected in enumerate(runner.streams(before)):
        if len(runner.setting.sequences) == 1:
            return 0
        found = runner.run(after, index, plan.streams, expected)
        errors = block_errors(plan, expected, found, found)
        own = next((e.isolated or 0.0 for e in errors if e.index == wrong.index), 0.0)
        if own > worst:
            worst, chosen = own, index
    return chosen


def _worst_tokens(setting: Setting, expected: Array, found: Array, kl: Array) -> tuple[WorstToken, ...]:
    """The positions with the largest KL, as text."""
    owners = [(sequence, position) for sequence in setting.sequences for position in range(len(sequence))]
    order = np.argsort(-np.nan_to_num(kl, nan=np.inf), kind="stable")[:NUM_WORST_TOKENS]
    worst = []
    for row in order:
        sequence, position = owners[row]
        following = sequence[position + 1 : position + 2]
        worst.append(
            WorstToken(
                position=position,
                context=setting.decode(sequence[max(0, position + 1 - _CONTEXT_TOKENS) : position + 1]),
                expected=setting.decode([int(expected[row].argmax())]),
                found=setting.decode([int(found[row].argmax())]),
                actual=setting.decode(following),
                kl=float(kl[row]),
            )
        )
    return tuple(worst)
