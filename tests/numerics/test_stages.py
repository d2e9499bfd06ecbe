"""Between the original and the compiled model: patched modeling in torch, and each rank's ONNX in onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rank_modules import empty_cache, export_with_float32_cache, load_rank, run_onnx, run_torch, step_arrays

from vamc_compiler.ops.collectives import run_ranks
from vamc_runtime.manifest import read_manifest

MODELS = ["baichuan2-13b-mini", "baichuan2-7b-mini", "llama-mini"]
ONNX_TOLERANCE = 1e-4


def largest_difference(expected, found) -> float:
    """Over logits and the first layer's cache."""
    return max(float(np.abs(a.astype(np.float64) - b).max()) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize(("tp", "dtype"), [(1, "fp16"), (2, "int8")])
@pytest.mark.parametrize("model", MODELS)
def test_exported_rank_computes_what_torch_computes(
    model, dtype, tp, compile_demo, held_out, record, tmp_path, monkeypatch
):
    """With a float32 cache: a float16 one turns a difference in the last bit into a step of 2^-11."""
    runstream = compile_demo(model, dtype, tp)
    manifest = read_manifest(runstream)
    arrays = step_arrays(held_out(model)[:48], manifest.kv_cache.page_tokens)
    cache = empty_cache(manifest, arrays["page_table"].size, np.float32)
    worst = 0.0
    for rank in range(tp):
        exported = export_with_float32_cache(runstream, rank, tmp_path, monkeypatch)
        found = run_onnx(exported, arrays, cache)
        worst = max(worst, largest_difference(run_torch(load_rank(runstream, rank), arrays, cache), found))
    record.add(
        "each rank's ONNX in onnxruntime against the same rank in torch, float32 cache",
        f"{model} {dtype}, tp {tp}",
        {f"largest difference (at most {ONNX_TOLERANCE:.0e})": f"{worst:.1e}"},
    )
    assert worst <= ONNX_TOLERANCE


@pytest.mark.parametrize("model", MODELS)
def test_onnx_in_the_runstream_runs_as_it_is(model, compile_demo, held_out):
    runstream = compile_demo(model, "int8", 2)
    manifest = read_manifest(runstream)
    arrays = step_arrays(held_out(model)[:48], manifest.kv_cache.page_tokens)
    cache = empty_cache(manifest, arrays["page_table"].size)
    for rank in range(2):
        expected = run_torch(load_rank(runstream, rank), arrays, cache)
        found = run_onnx(runstream / "onnx" / f"rank_{rank}" / "model.onnx", arrays, cache)
        scale = float(np.abs(expected[0]).max())
        assert largest_difference(expected, found) <= ONNX_TOLERANCE * scale


@pytest.mark.parametrize("model", MODELS)
def test_patched_modeling_agrees_with_the_original(model, compile_demo, held_out, reference):
    tokens = held_out(model)[:96]
    manifest = read_manifest(compile_demo(model))
    arrays = step_arrays(tokens, manifest.kv_cache.page_tokens)
    cache = empty_cache(manifest, arrays["page_table"].size)
    found = run_torch(load_rank(compile_demo(model), 0), arrays, cache)[0]
    expected = np.concatenate([reference(model, tokens[:64]), reference(model, tokens[64:])])
    # What is left is the rounding of weights and cache to float16.
    assert np.abs(expected - found).max() <= 2e-2
    assert (expected.argmax(-1) == found.argmax(-1)).mean() >= 0.98


@pytest.mark.parametrize("tp", [2, 3, 4])
def test_eager_ranks_add_up_to_one(tp, compile_demo, held_out):
    model = "baichuan2-13b-mini"
    arrays = step_arrays(held_out(model)[:32], 16)
    whole = compile_demo(model, "int8", 1)
    cache = empty_cache(read_manifest(whole), arrays["page_table"].size)
    expected = run_torch(load_rank(whole, 0), arrays, cache)[0]

    runstream = compile_demo(model, "int8", tp)
    ranks = [load_rank(runstream, rank) for rank in range(tp)]
    part = empty_cache(read_manifest(runstream), arrays["page_table"].size)
    with torch.no_grad():
        results = run_ranks([lambda rank=rank: run_torch(rank, arrays, part)[0] for rank in ranks])
    for logits in results:
        assert np.abs(expected - logits).max() <= 1e-3  # the bound between tensor-parallel degrees
