"""Models of odd shapes, as no demo has them: the compiled step against transformers' own class, whatever the sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vamc_compiler.compile import CompileRequest, compile_model
from vamc_compiler.config import load_config
from vamc_compiler.verify.metrics import compare_logits
from vamc_runtime import LLM

# What is odd about each: sizes that no vector divides, replicated and padded heads, tied embeddings, scaled rotary
# frequencies, one layer, a head width of its own, weights in another type and file format.
CASES: dict[str, dict[str, Any]] = {
    "ragged sizes, 3 ranks": {
        "model": {"hidden_size": 60, "intermediate_size": 101, "num_attention_heads": 5, "vocab_size": 333},
        "tp": 3,
    },
    "more ranks than key/value heads": {
        "model": {"hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 6, "num_key_value_heads": 2},
        "tp": 4,
        "dtype": torch.float32,
    },
    "tied embeddings, llama3 scaling, one key/value head": {
        "model": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "rope_theta": 500000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        "tp": 2,
        "dtype": torch.float16,
    },
    "head width of its own, linear scaling": {
        "model": {
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": 20,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        },
        "tp": 1,
    },
    "yarn, pickled weights, one layer": {
        "model": {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        },
        "tp": 2,
        "pickled": True,
    },
}
DEFAULTS = {
    "vocab_size": 300,
    "num_hidden_layers": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}


def write_checkpoint(path: Path, case: dict[str, Any]) -> LlamaForCausalLM:
    """A checkpoint with random weights in the case's type and format; returns the model in float32."""
    torch.manual_seed(0)
    config = LlamaConfig(**DEFAULTS | {"num_key_value_heads": None} | case["model"])
    dtype = case.get("dtype", torch.bfloat16)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # larger than at the start of a training: attention has to matter
            parameter.copy_((parameter * 4 if parameter.dim() > 1 else parameter).to(dtype))
    if case.get("pickled"):
        path.mkdir()
        state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
        torch.save(state, path / "pytorch_model.bin")
        config.save_pretrained(path)
    else:
        model.to(dtype).save_pretrained(path)
        model.float()
    raw = json.loads((path / "config.json").read_text())
    assert raw["model_type"] == "llama"
    return model


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "fp16") for name in CASES), ("ragged sizes, 3 ranks", "int8")]
)
def test_odd_shapes(name: Any, precision: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = write_checkpoint(tmp_path / "checkpoint", case)
    quantize = "\n  quantize: {type: int8_per_channel}" if precision == "int8" else ""
    (tmp_path / "build.yaml").write_text(
        f"name: odd\nfrontend:\n  checkpoint: checkpoint\n  shape: {{input_ids: [[32], [128]]}}\n"
        f"  model_kwargs: {{tp: {case['tp']}}}{quantize}\n"
        f"backend: {{dtype: {precision}}}\nworkspace: {{path: {tmp_path / 'out'}}}\nverify: {{when: off}}\n",
        encoding="utf-8",
    )
    runstream = compile_model(CompileRequest(config=load_config(tmp_path / "build.yaml"))).path
    tokens = np.random.default_rng(1).integers(0, model.config.vocab_size, 90).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    with LLM(runstream) as llm:
        found, _ = compare_logits([expected], [llm.logits(tokens)], [tokens])
    # Random weights spread probability over the whole vocabulary: the bounds are those of trained models.
    assert found.kl_mean <= (1e-5 if precision == "fp16" else 1e-3)
    assert found.same_top >= (0.97 if precision == "fp16" else 0.9)
