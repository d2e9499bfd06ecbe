"""Right builds pass: 20 random models of each architecture keep the default budgets.

Every precision, other shapes and published widths: benchmarks/false_alarms.py, with its results beside it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from random_models import SMALL, STYLES, Precision, compile_template

from vamc_compiler.stages import SilentReporter, Stages
from vamc_compiler.verify.verification import EVERYTHING, SHORT, Request, verify

NUM_SEEDS = 20
TOKENS = 64


@pytest.mark.parametrize(
    ("architecture", "precision"),
    [("LLaMA", "int8_per_channel"), ("Baichuan 7B", "fp16"), ("Baichuan 13B", "int8_per_channel")],
)
def test_random_models_pass(architecture: str, precision: Precision, tmp_path: Path) -> None:
    template = compile_template(tmp_path / "build", SMALL[architecture][0], precision, tp=1, tokens=TOKENS)
    alarms = []
    for seed in range(NUM_SEEDS):
        request = Request(subject=template.with_seed(seed), parts=EVERYTHING if seed == 0 else SHORT)
        report = verify(request, Stages(SilentReporter())).report
        alarms += [
            f"seed {seed} ({STYLES[seed % len(STYLES)].name}), {pair.before} -> {pair.after}, {pair.check}: "
            f"{line.name} {line.value:.3g}, limit {line.limit:.3g}"
            for pair in report.pairs
            for line in pair.budgets
            if not line.passed
        ]
    assert not alarms, "\n".join(alarms)
