"""What the reports say of generated tokens."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from vamc_compiler.verify.report.detail import pair_section
from vamc_compiler.verify.report.summary import print_summary
from vamc_compiler.verify.result import BudgetLine, PairResult, TokenSource, VerificationReport

PAIR = PairResult(
    before="original",
    after="compiled, 1 rank",
    check="greedy tokens",
    budgets=(BudgetLine(name="same token where decided", value=1.0, limit=0.95, at_least=True),),
    num_greedy_tokens=32,
)


@pytest.mark.parametrize(
    ("first", "shown", "page"),
    [
        (None, "32 tokens equal", "All 32 generated tokens are those that original chooses."),
        (5, "5 of 32 tokens before the first other one", "the first 5 are those that original chooses"),
    ],
)
def test_generated_tokens(first: int | None, shown: str, page: str) -> None:
    pair = dataclasses.replace(PAIR, first_divergence=first)
    report = VerificationReport(
        name="demo",
        model="LLaMA",
        precision="fp16",
        num_ranks=1,
        tokens=TokenSource(description="built-in sample", num_tokens=256, digest="00"),
        reference="original",
        pairs=(pair,),
        checkpoint_digest="00",
        toolchain={},
        cpu="CPU",
        library="znver4",
        date="2026-11-21T00:00:00+00:00",
        seconds=1.0,
    )
    output = io.StringIO()
    print_summary(report, Console(file=output, width=200))
    assert shown in output.getvalue()
    assert page in pair_section(0, pair, opened=False)
