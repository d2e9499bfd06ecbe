"""Checkpoints that are quantized already: refused with the method's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import SOURCE_CODE, tiny_source, write_config

from vamc_compiler.model.quantized import check_no_quantized_tensors
from vamc_compiler.model.registry import find_model
from vamc_runtime.errors import UserError


@pytest.mark.parametrize(
    ("key", "value", "method"),
    [
        ("quantization_config", {"quant_method": "gptq", "bits": 4, "group_size": -1}, "gptq, 4 bits"),
        ("quantization_config", {"quant_method": "awq", "w_bit": 4}, "awq, 4 bits"),
        ("quantization_config", {"load_in_8bit": True}, "bitsandbytes"),
        ("quantization_config", {"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ("quantization_config", {"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ("quantization_config", {}, "an unnamed method"),
        ("quantization_config", "awq", '"awq" (a text)'),
        ("compression_config", {"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ("quantization", {"group_size": 64, "bits": 4}, "MLX, 4 bits"),
        ("quantize", "w8a8", '"w8a8" (a text)'),
    ],
)
def test_config_says_so(tmp_path: Path, key: str, value: Any, method: str) -> None:
    with pytest.raises(UserError, match="the checkpoint is quantized already") as caught:
        tiny_source(tmp_path, "llama", **{key: value})
    assert f"({method})" in caught.value.found and repr(key) in caught.value.found


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("quantize_config.json", "GPTQ"),
        ("quant_config.json", "AWQ"),
        ("hf_quant_config.json", "ModelOpt"),
        ("quant_model_description_w8a8.json", "msModelSlim"),
    ],
)
def test_a_file_says_so(tmp_path: Path, name: str, method: str) -> None:
    (write_config(tmp_path, "llama") / name).write_text("{}")
    with pytest.raises(UserError, match="the checkpoint is quantized already") as caught:
        find_model(tmp_path, SOURCE_CODE, trust_checkpoint_code=False)
    assert method in caught.value.found and name in caught.value.found


@pytest.mark.parametrize("end", ["qweight", "weight_packed", "weight_scale_inv", "SCB", "weight.absmax"])
def test_tensors_say_so(tmp_path: Path, end: str) -> None:
    name = f"model.layers.0.self_attn.q_proj.{end}"
    with pytest.raises(UserError, match="quantized already") as caught:
        check_no_quantized_tensors(tmp_path, ["model.norm.weight", name])
    assert name in caught.value.found


def test_original_checkpoints(tmp_path: Path) -> None:
    tiny_source(tmp_path, "llama", quantization_config=None, quantize="")
    check_no_quantized_tensors(tmp_path, ["model.norm.weight", "lm_head.weight", "model.layers.0.mlp.up_proj.bias"])
