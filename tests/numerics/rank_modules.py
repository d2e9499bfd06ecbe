"""A rank's module with its weights, and its ONNX file in onnxruntime, on the same inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from golden.cases import REPOSITORY
from safetensors.torch import load_file

from vamc_compiler.model.registry import find_model
from vamc_compiler.precision import ModelPrecision
from vamc_compiler.trace.rank_module import build_rank
from vamc_runtime.manifest import Manifest, read_manifest

STEP_INPUTS = ("input_ids", "position_ids", "seq_ids", "page_table", "logits_index")


def precision_of(manifest: Manifest) -> ModelPrecision:
    """What the runstream was traced with."""
    quantize = manifest.settings["frontend"].get("quantize") or {}
    return ModelPrecision(
        unquantized="bfloat16" if manifest.precision.weights == "bf16" else "float16",
        quantization=manifest.precision.quantization,
        lm_head=quantize.get("lm_head", False),
    )


def load_rank(runstream: Path, rank: int) -> torch.nn.Module:
    """The modeling file's module of one rank, in eager torch, with the plain weights that the runstream kept."""
    manifest = read_manifest(runstream)
    source = find_model(Path(manifest.checkpoint.path), REPOSITORY / "source_code", trust_checkpoint_code=False)
    config = source.config.for_rank(rank, manifest.tensor_parallel)
    model = build_rank(source, config, precision_of(manifest))
    weights = load_file(runstream / "onnx" / f"rank_{rank}" / "weights.safetensors")
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    assert set(tensors) == {name for name in weights if not name.startswith("__pad_")}
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(weights[name])
    return model


def step_arrays(token_ids: list[int], page_tokens: int) -> dict[str, np.ndarray[Any, Any]]:
    """The inputs of a prefill of two sequences, with pages in no particular order; logits of every token."""
    first = len(token_ids) * 2 // 3
    lengths = [first, len(token_ids) - first]
    pages = -(-first // page_tokens)
    order = np.random.default_rng(0).permutation(2 * pages).reshape(2, pages)
    return {
        "input_ids": np.array(token_ids, np.int32),
        "position_ids": np.concatenate([np.arange(n) for n in lengths]).astype(np.int32),
        "seq_ids": np.repeat(np.arange(2), lengths).astype(np.int32),
        "page_table": order.astype(np.int32),
        "logits_index": np.arange(len(token_ids), dtype=np.int32),
    }


def empty_cache(manifest: Manifest, num_pages: int) -> list[np.ndarray[Any, Any]]:
    """Zeroed cache pages of every layer."""
    kv = manifest.kv_cache
    shape = (num_pages, 2, kv.num_heads, kv.page_tokens, kv.head_dim)
    return [np.zeros(shape, np.float16) for _ in range(kv.num_layers)]


def run_torch(model: torch.nn.Module, arrays: dict[str, Any], cache: list[Any]) -> list[np.ndarray[Any, Any]]:
    """Logits and the first layer's cache, from eager torch."""
    with torch.no_grad():
        logits, updated = model(
            *(torch.from_numpy(arrays[name]) for name in STEP_INPUTS), [torch.from_numpy(pages) for pages in cache]
        )
    return [logits.numpy(), updated[0].numpy()]


def run_onnx(path: Path, arrays: dict[str, Any], cache: list[Any]) -> list[np.ndarray[Any, Any]]:
    """Logits and the first layer's cache, from onnxruntime on the file as it is."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = dict(arrays) | {f"kv_cache_{layer}": pages for layer, pages in enumerate(cache)}
    result: list[np.ndarray[Any, Any]] = session.run(["logits", "kv_updated_0"], feeds)
    return result
