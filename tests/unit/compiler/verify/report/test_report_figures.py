"""Figures as text: short, and never kinder than the value."""

from __future__ import annotations

import math

import pytest
from sample_reports import HOSTILE, failing_report, make_pair, make_report, passing_report

from vamc_compiler.verify.report.figures import (
    against_limit,
    clean,
    figure,
    nearest_line,
    share,
    spent,
    value_and_limit,
    verdict,
)
from vamc_compiler.verify.result import BudgetLine, PairResult


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (2.6e-7, "2.6e-07"),
        (1.00002, "1.00002"),
        (8.317, "8.317"),
        (0.0, "0"),
        (256.0, "256"),
        (12345.678, "12,345.68"),
        (-3.2e-4, "-3.2e-04"),
        (5e-324, "4.9e-324"),
        (1.7e308, "1.7e+308"),
        (math.nan, "NaN"),
        (math.inf, "∞"),
        (-math.inf, "-∞"),
    ],
)
def test_figure(value: float, shown: str) -> None:
    assert figure(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.0, "100.00 %"), (0.9902, "99.02 %"), (0.9999999, "99.99999 %"), (0.0, "0.00 %"), (math.nan, "NaN")],
)
def test_only_all_is_all(value: float, shown: str) -> None:
    assert share(value) == shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (BudgetLine(name="mean KL", value=2.6e-7, limit=1e-5), ("2.6e-07", "1e-05")),
        (BudgetLine(name="mean KL", value=1.0004e-5, limit=1e-5), ("1.0004e-05", "1e-05")),
        (BudgetLine(name="same top token", value=0.98999, limit=0.99, at_least=True), ("98.999 %", "99 %")),
        (BudgetLine(name="same top token", value=0.999, limit=0.999, at_least=True), ("99.90 %", "99.9 %")),
        (BudgetLine(name="perplexity ratio", value=1.00104, limit=1.001), ("1.00104", "1.001")),
        (BudgetLine(name="tokens with the same top", value=200, limit=256, at_least=True), ("200", "256")),
        (BudgetLine(name="mean KL", value=math.nan, limit=1e-5), ("NaN", "1e-05")),
    ],
)
def test_value_and_limit_can_be_told_apart(line: BudgetLine, shown: tuple[str, str]) -> None:
    assert value_and_limit(line) == shown


@pytest.mark.parametrize(
    ("line", "share_of_budget"),
    [
        (BudgetLine(name="mean KL", value=5e-6, limit=1e-5), 0.5),
        (BudgetLine(name="perplexity ratio", value=1.0005, limit=1.001), 0.5),
        (BudgetLine(name="perplexity ratio", value=0.9, limit=1.001), 0.0),
        (BudgetLine(name="same top", value=0.995, limit=0.99, at_least=True), 0.5),
        (BudgetLine(name="same tokens", value=1.0, limit=1.0, at_least=True), 0.0),
        (BudgetLine(name="same tokens", value=0.9, limit=1.0, at_least=True), math.inf),
        (BudgetLine(name="first divergence", value=64, limit=32, at_least=True), 0.5),
        (BudgetLine(name="differing tensors", value=0, limit=0), 0.0),
        (BudgetLine(name="differing tensors", value=1, limit=0), math.inf),
        (BudgetLine(name="mean KL", value=math.nan, limit=1e-5), math.inf),
        (BudgetLine(name="mean KL", value=math.inf, limit=1e-5), math.inf),
        (BudgetLine(name="mean KL", value=1.0, limit=math.inf), 0.0),
    ],
)
def test_spent(line: BudgetLine, share_of_budget: float) -> None:
    assert spent(line) == pytest.approx(share_of_budget, rel=1e-9)
    assert line.passed == (share_of_budget <= 1)


def test_nearest_line_is_one_that_failed() -> None:
    pair = make_pair("a", "b")
    line = nearest_line(pair)
    assert line is not None and line.name == "isolated error of a block"
    wrong = BudgetLine(name="wrong", value=math.nan, limit=1)
    near = BudgetLine(name="near", value=1, limit=1)
    assert nearest_line(PairResult(before="a", after="b", check="prefill", budgets=(near, wrong, near))) is wrong
    assert nearest_line(PairResult(before="a", after="b", check="prefill", budgets=())) is None


def test_against_limit() -> None:
    assert against_limit(BudgetLine(name="mean KL", value=0.31, limit=1e-5)) == "mean KL 0.310, at most 1e-05"
    same = BudgetLine(name="same top", value=0.41, limit=0.999, at_least=True)
    assert against_limit(same) == "same top 41.00 %, at least 99.9 %"


def test_clean() -> None:
    cleaned = clean(HOSTILE)
    assert "\x00" not in cleaned and "\x1b" not in cleaned and "\ud800" not in cleaned
    assert "双引号" in cleaned and "<script>" in cleaned
    assert clean("line\n\ttab 😀") == "line\n\ttab 😀"


def test_verdict() -> None:
    assert verdict(passing_report()) == "all 8 comparisons within budget"
    assert verdict(failing_report()) == "1 of 8 comparisons outside its budget"
    assert verdict(make_report(make_pair("a", "b"))) == "1 comparison within budget"
    assert verdict(make_report()) == "nothing was compared", "no comparison proves nothing"
