"""One runstream, one set of weights, a library per CPU level: each is forced in turn and computes the same model."""

from __future__ import annotations

import numpy as np
import pytest
from fixture_types import CompileDemo, HeldOut, Reference
from golden.cases import LEVELS

from vamc_compiler.verify.metrics import compare_logits
from vamc_runtime import LLM
from vamc_runtime.machine import cpu_features
from vamc_runtime.manifest import read_manifest

MODEL = "llama-mini"


@pytest.mark.parametrize(
    ("precision", "mean_kl", "difference"),
    # The largest logit difference between two levels: none for fp16, whose sums have one order everywhere; for bf16
    # what only znver4 rounds. The other precisions' kernels are compared one by one in tests/unit/compiler/kernels.
    [("fp16", 1e-5, 0.0), ("bf16", 1e-5, 0.1)],
)
def test_every_library_computes_the_model(
    precision: str,
    mean_kl: float,
    difference: float,
    compile_demo: CompileDemo,
    reference: Reference,
    held_out: HeldOut,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runstream = compile_demo(MODEL, precision, mcpu=LEVELS)
    libraries = read_manifest(runstream).libraries
    assert [library.mcpu for library in libraries] == list(LEVELS)
    tokens = held_out(MODEL)[:256]
    expected, logits = reference(MODEL, tokens), {}
    for library in libraries:
        if not set(library.requires) <= cpu_features():
            continue
        monkeypatch.setattr("vamc_runtime.executor.choose_library", lambda runstream, library=library: library)
        with LLM(runstream) as llm:
            assert llm._executor is not None
            assert llm._executor.on_every_rank(lambda rank: rank.library is not None) == [True]
            logits[library.mcpu] = llm.logits(tokens)
        found, _ = compare_logits([expected], [logits[library.mcpu]], [tokens])
        assert found.kl_mean <= mean_kl
        assert found.same_top >= 0.99
    if len(logits) < 2:
        pytest.skip("this CPU runs only the lowest level")
    largest = max(float(np.abs(found - logits[LEVELS[0]]).max()) for found in logits.values())
    assert largest <= difference
