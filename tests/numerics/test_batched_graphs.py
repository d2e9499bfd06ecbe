"""Steps of several sequences before the compiler: the modeling file in torch, and a runstream's ONNX files as they are.

`vamc verify` runs one sequence at a time, and gives graphs their weights itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fixture_types import CompileDemo, HeldOut, Reference
from rank_modules import empty_cache, load_rank, run_onnx, run_torch, step_arrays

from vamc_runtime.manifest import read_manifest

CASES = [("baichuan2-13b-mini", "int8", 2), ("llama-mini", "fp16", 1)]
TOLERANCE = 1e-4
NUM_TOKENS = 48


@pytest.mark.parametrize(("model", "precision", "tp"), CASES)
def test_onnx_in_the_runstream_runs_as_it_is(
    model: Any, precision: str, tp: Any, compile_demo: CompileDemo, held_out: HeldOut
) -> None:
    runstream = compile_demo(model, precision, tp)
    manifest = read_manifest(runstream)
    arrays = step_arrays(held_out(model)[:NUM_TOKENS], manifest.kv_cache.page_tokens)
    cache = empty_cache(manifest, arrays["page_table"].size)
    for rank in range(tp):
        expected = run_torch(load_rank(runstream, rank), arrays, cache)
        found = run_onnx(runstream / "onnx" / f"rank_{rank}" / "model.onnx", arrays, cache)
        for ours, theirs in zip(expected, found, strict=True):
            assert np.abs(ours.astype(np.float64) - theirs).max() <= TOLERANCE * np.abs(expected[0]).max()


def test_two_sequences_in_a_step_do_not_see_each_other(
    compile_demo: CompileDemo, held_out: HeldOut, reference: Reference
) -> None:
    model, precision, tp = CASES[1]
    runstream = compile_demo(model, precision, tp)
    tokens = held_out(model)[:NUM_TOKENS]
    manifest = read_manifest(runstream)
    arrays = step_arrays(tokens, manifest.kv_cache.page_tokens)
    found = run_torch(load_rank(runstream, 0), arrays, empty_cache(manifest, arrays["page_table"].size))[0]
    first = int((arrays["seq_ids"] == 0).sum())
    expected = np.concatenate([reference(model, tokens[:first]), reference(model, tokens[first:])])
    # What is left is the rounding of weights and cache to float16.
    assert np.abs(expected - found).max() <= 2e-2
