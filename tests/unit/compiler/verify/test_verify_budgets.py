"""Bounds: which precision has which, what a config changes, and what counts as within."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest

from vamc_compiler.config.schema import BudgetConfig
from vamc_compiler.precision import ModelPrecision
from vamc_compiler.verify.blocks import BlockLimit
from vamc_compiler.verify.budgets import Budget, block_lines, default_budget, greedy_lines, logit_lines
from vamc_compiler.verify.metrics import compare_logits
from vamc_compiler.verify.result import BlockError, BudgetLine

FP16 = default_budget(ModelPrecision(), bfloat16_prefill=False)
BF16 = default_budget(ModelPrecision(unquantized="bfloat16"), bfloat16_prefill=False)
INT8 = default_budget(ModelPrecision(quantization="int8_per_channel"), bfloat16_prefill=False)
W8A8 = default_budget(ModelPrecision(quantization="w8a8_dynamic"), bfloat16_prefill=False)


def test_coarser_types_have_wider_budgets() -> None:
    budgets = [FP16, BF16, INT8, W8A8]
    for name in ("mean_kl", "perplexity_ratio", "rounding_error"):
        values = [getattr(budget, name) for budget in budgets]
        assert values == sorted(values) and values[0] < values[-1], name
    shares = [budget.same_top for budget in budgets]
    assert shares == sorted(shares, reverse=True)


def test_every_limit_on_a_block_has_one_on_its_rms() -> None:
    """What all tokens have in common is a fault, and shows in the root mean square long before in the largest error."""
    for budget in (FP16, BF16, INT8, W8A8):
        for limit in (budget.modeling, budget.rounding, budget.exact, budget.compiled, budget.end_to_end):
            assert 0 < limit.rms < 0.4 * limit.worst
        assert budget.end_to_end.worst == budget.rounding.worst + budget.compiled.worst
        assert budget.end_to_end.rms == budget.rounding.rms + budget.compiled.rms


def test_prefill_in_bfloat16_has_its_budget() -> None:
    assert default_budget(ModelPrecision(), bfloat16_prefill=True) == BF16
    assert default_budget(ModelPrecision(quantization="w8a8_dynamic"), bfloat16_prefill=True) == W8A8


def test_a_config_replaces_what_it_names() -> None:
    assert FP16.overridden(BudgetConfig()) == FP16
    changed = FP16.overridden(BudgetConfig(mean_kl=0.0, same_top=0.5))
    assert (changed.mean_kl, changed.same_top) == (0.0, 0.5), "0 is a bound, not the absence of one"
    rest = {"mean_kl", "same_top"}
    assert {k: v for k, v in asdict(changed).items() if k not in rest} == {
        k: v for k, v in asdict(FP16).items() if k not in rest
    }


@pytest.mark.parametrize(
    ("value", "limit", "at_least", "passed"),
    [
        (1.0, 1.0, False, True),
        (1.1, 1.0, False, False),
        (1.0, 1.0, True, True),
        (0.9, 1.0, True, False),
        (math.nan, 1.0, False, False),
        (math.nan, 1.0, True, False),
        (math.inf, 1.0, False, False),
    ],
)
def test_within_a_bound(value: float, limit: float, at_least: bool, passed: bool) -> None:
    assert BudgetLine(name="x", value=value, limit=limit, at_least=at_least).passed is passed


def test_lines_of_logits() -> None:
    logits = np.random.default_rng(0).standard_normal((6, 9)).astype(np.float32)
    metrics, _ = compare_logits([logits], [logits * 1.5], [range(6)])
    lines = logit_lines(metrics, FP16)
    assert [(line.value, line.limit, line.at_least) for line in lines] == [
        (metrics.kl_mean, FP16.mean_kl, False),
        (metrics.same_decided, FP16.same_top, True),
        (metrics.perplexity_ratio_low, FP16.perplexity_ratio, False),
    ]
    (line,) = greedy_lines(metrics, FP16)
    assert (line.value, line.limit, line.at_least) == (metrics.same_decided, FP16.same_top, True)


def block(isolated: float | None, rms: float | None = None) -> BlockError:
    return BlockError(
        index=0, block="b", tap="t", accumulated=9.0, isolated=isolated, isolated_rms=rms, worst_token=None
    )


def test_lines_of_blocks() -> None:
    errors = [block(0.1, 0.05), block(None), block(0.3, 0.01)]
    worst, rms = block_lines(errors, BlockLimit(0.2, 0.06))
    assert (worst.value, worst.limit, worst.passed) == (0.3, 0.2, False)
    assert (rms.value, rms.limit, rms.passed) == (0.05, 0.06, True)
    assert block_lines(errors, BlockLimit(0.2)) == [worst], "without a bound there is no line"
    assert block_lines([block(None)], BlockLimit(0.2, 0.1)) == [], "where nothing was measured, nothing is claimed"


def test_budgets_are_positive() -> None:
    for budget in (FP16, BF16, INT8, W8A8):
        assert isinstance(budget, Budget)
        assert all(value > 0 for value in asdict(budget).values())
        assert budget.perplexity_ratio > 1 > budget.same_top
