"""A few cases of `make numerics`: each weight type, model and degree once, against the golden figures."""

from __future__ import annotations

from typing import Any

import pytest
from fixture_types import BuildDemo
from golden.cases import LEVELS, Case, verify_case
from golden.files import read_golden
from golden.summary import compare, summarize

CASES = [
    (Case("llama-mini", "fp16", 1), LEVELS),  # as in test_cpu_levels.py: one build serves both
    (Case("llama-mini", "bf16", 1), LEVELS),
    (Case("baichuan2-13b-mini", "int8", 2), ()),  # heads divided; e2e tests run it too
    (Case("baichuan2-7b-mini", "int8 with head", 3), ()),  # heads padded
    (Case("llama-mini", "w8a8", 4), ()),  # heads padded, key/value heads repeated
]


@pytest.mark.parametrize(("case", "mcpu"), CASES, ids=lambda value: str(value) if isinstance(value, Case) else "")
def test_no_figure_is_worse_than_golden(case: Any, mcpu: tuple[str, ...], build_demo: BuildDemo) -> None:
    report = verify_case(build_demo(case.model, case.precision, case.tp, mcpu))
    assert report.passed, report.first_failure
    worse = [str(change) for change in compare(read_golden()[case], summarize(report)) if change.is_worse]
    assert not worse, "\n".join(worse)
