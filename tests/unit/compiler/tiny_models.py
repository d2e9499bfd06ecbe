"""The three model families at sizes that trace in a second, and where their modeling files lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vamc_compiler.model.registry import ModelSource, find_model

SOURCE_CODE = Path(__file__).resolve().parents[3] / "source_code"
_SIZES = {
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-6,
    "vocab_size": 50,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        **_SIZES,
        "model_type": "llama",
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
    },
    "baichuan 7B": {
        **_SIZES,
        "model_type": "baichuan",
        "z_loss_weight": 0,  # says that it is Baichuan2
        "num_attention_heads": 6,
        "max_position_embeddings": 128,
    },
    "baichuan 13B": {
        **_SIZES,
        "model_type": "baichuan",
        "z_loss_weight": 0,  # says that it is Baichuan2
        "num_attention_heads": 6,
        "model_max_length": 128,
    },
}
FAMILIES = tuple(CONFIGS)
FIRST_BAICHUAN: dict[str, Any] = {"z_loss_weight": None, "architectures": ["BaiChuanForCausalLM"]}
"""Changes that make a Baichuan2 one of the first generation, with a plain head."""


def write_config(directory: Path, family: str, **changes: Any) -> Path:
    """A checkpoint directory with config.json alone; a value of None leaves the key out."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in (CONFIGS[family] | changes).items() if value is not None}
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def tiny_source(directory: Path, family: str, **changes: Any) -> ModelSource:
    """The model as `vamc compile` finds it."""
    return find_model(write_config(directory, family, **changes), SOURCE_CODE, trust_checkpoint_code=False)
