"""The two comparisons that are not of streams: generated tokens, and weight files."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from vamc_compiler.graph import PAGE_TOKENS
from vamc_compiler.verify.budgets import Budget, greedy_lines
from vamc_compiler.verify.compare import Form
from vamc_compiler.verify.compiled_stage import CompiledStage
from vamc_compiler.verify.metrics import compare_logits
from vamc_compiler.verify.result import BudgetLine, Location, PairResult
from vamc_compiler.verify.stage_opener import count_ranks
from vamc_compiler.verify.steps import plan_steps
from vamc_compiler.verify.subject import Subject
from vamc_compiler.verify.weights import ALL_RANKS, NOWHERE, WeightProblem, check_weights

GREEDY_PROMPT_TOKENS, GREEDY_TOKENS = 24, 32


def compare_greedy(
    before: Form, stage: CompiledStage, sequence: Sequence[int], max_context_tokens: int, budget: Budget
) -> PairResult:
    """The compiled model's likeliest continuation: where would the other stage have gone elsewhere?

    Args:
        before: what counts as right; it computes what was generated, all at once.
        stage: generates, token by token.
        sequence: text whose beginning is the prompt.
        max_context_tokens: longest prompt and output.
        budget: bounds.
    """
    start = time.perf_counter()
    prompt = list(sequence[: min(GREEDY_PROMPT_TOKENS, max(1, max_context_tokens // 2))])
    count = min(GREEDY_TOKENS, max_context_tokens - len(prompt))
    chosen, found = stage.greedy(prompt, count)
    computed = [*prompt, *chosen[:-1]]
    steps = plan_steps(computed, before.chunks(len(computed)), PAGE_TOKENS)
    expected = before.stage.run(steps).logits[len(prompt) - 1 :]
    with np.errstate(all="ignore"):
        metrics, kl = compare_logits([expected], [found], [[0, *chosen[:-1]]], budget.decided_nats)
    different = np.flatnonzero(expected.argmax(-1) != np.array(chosen))
    first = int(different[0]) if different.size else None
    lines = tuple(greedy_lines(metrics, budget))
    failed = not all(line.passed for line in lines)
    return PairResult(
        before=before.name,
        after=stage.name,
        check="greedy tokens",
        budgets=lines,
        metrics=metrics,
        kl=tuple(map(float, kl)),
        num_greedy_tokens=count,
        first_divergence=first,
        location=Location(stage=stage.name, detail=f"first other token: {first}") if failed else None,
        seconds=time.perf_counter() - start,
    )


def compare_weights(subject: Subject, on_progress: Callable[[int, int], None]) -> PairResult:
    """Whether the ranks' files hold the checkpoint's weights."""
    start = time.perf_counter()
    found = check_weights(subject.runstream, subject.parameters, subject.checkpoint, on_progress)
    stage = f"weights, {count_ranks(subject.num_ranks)}"
    return PairResult(
        before="checkpoint",
        after=stage,
        check="weights",
        budgets=(BudgetLine(name="tensors that differ", value=len(found.problems), limit=0),),
        location=_location(stage, found.problems) if found.problems else None,
        seconds=time.perf_counter() - start,
    )


def _location(stage: str, problems: Sequence[WeightProblem]) -> Location:
    """The first parameter that is wrong, and on which ranks."""
    first = problems[0]
    wrong = {problem.rank for problem in problems if problem.parameter == first.parameter}
    detail = first.hint or first.kind
    if first.first_row != NOWHERE:
        detail += f": {first.num_different} values differ, the first at row {first.first_row}"
        detail += f", column {first.first_column}"
    return Location(stage=stage, op=first.parameter, ranks=tuple(sorted(wrong - {ALL_RANKS})), detail=detail)
