"""Settings of config.json that ask for another model than the built-in files compute, refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import CONFIGS, SOURCE_CODE, tiny_source

from vamc_compiler.model.registry import find_model
from vamc_runtime.errors import UserError


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("hidden_act", "gelu", '"gelu" (a text), not "silu" or "swish"'),
        ("attention_bias", True, "true (a boolean), not false"),
        ("attention_bias", 0, "0 (a whole number)"),
        ("attention_bias", "false", '"false" (a text)'),
        ("mlp_bias", True, "true"),
        ("logit_scale", 0.0625, "0.0625 (a number), not 1 or null"),
        ("residual_multiplier", 0.22, "0.22"),
        ("final_logit_softcapping", 30.0, "30.0 (a number), not null"),
        ("num_local_experts", 8, "8"),
        ("is_causal", False, "false"),
        ("sliding_window", 64, "64 (a whole number), not null or 128"),
        ("sliding_window", "x", '"x" (a text)'),
        ("layer_types", ["full_attention", "sliding_attention"], "of other kinds"),
        ("no_rope_layers", [1, 0], "a list"),
        ("per_layer_config", {"0": {}}, "an object"),
        ("head_dim", 7, "heads of width 7"),
        ("partial_rotary_factor", 0.5, "0.5, not 1.0"),
        (
            "rope_scaling",
            {"type": "longrope", "short_factor": [1], "long_factor": [1]},
            '"longrope" (a text), not one of',
        ),
        ("rope_scaling", {"rope_type": "su"}, '"su"'),
    ],
)
def test_llama_with_a_setting_of_another_model(tmp_path: Path, key: str, value: Any, shown: str) -> None:
    with pytest.raises(UserError, match="asks for what the modeling file of LLaMA") as caught:
        tiny_source(tmp_path, "llama", **{key: value})
    assert shown in caught.value.found
    if key not in ("head_dim", "rope_scaling"):
        assert f"- {key} " in caught.value.found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "swish"),
        ("attention_bias", False),
        ("logit_scale", 1),
        ("logit_scale", 1.0),
        ("sliding_window", 128),
        ("layer_types", ["full_attention"] * 2),
        ("no_rope_layers", []),
        ("pretraining_tp", 2),  # cuts the same matrices in pieces and adds them up
        ("attention_dropout", 0.1),  # training only
        ("a_key_of_nobody", 3),
    ],
)
def test_settings_that_change_nothing(tmp_path: Path, key: str, value: Any) -> None:
    assert tiny_source(tmp_path, "llama", **{key: value}).warnings == ()


def test_a_window_that_is_switched_off(tmp_path: Path) -> None:
    tiny_source(tmp_path, "llama", sliding_window=16, use_sliding_window=False)


@pytest.mark.parametrize(("key", "value"), [("hidden_act", None), ("hidden_act", ["silu"]), ("mlp_bias", None)])
def test_null_is_no_value(tmp_path: Path, key: str, value: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["llama"] | {key: value}))
    with pytest.raises(UserError, match=f"- {key} "):
        find_model(tmp_path, SOURCE_CODE, trust_checkpoint_code=False)


@pytest.mark.parametrize("family", ["baichuan 7B", "baichuan 13B"])
@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"rope_theta": 1e6}, "rope_theta 1000000.0"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rotary scaling linear"),
        ({"num_key_value_heads": 2}, "num_key_value_heads 2"),
        ({"head_dim": 8}, "head_dim 8"),
    ],
)
def test_what_baichuans_published_code_fixes(tmp_path: Path, family: str, changes: dict[str, Any], shown: str) -> None:
    with pytest.raises(UserError) as caught:
        tiny_source(tmp_path, family, **changes)
    assert shown in caught.value.found


def test_every_obstacle_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        tiny_source(tmp_path, "llama", attention_bias=True, mlp_bias=True, hidden_act="gelu")
    assert caught.value.found.count("\n  - ") == 3


def test_code_and_classes_of_another_name_are_told(tmp_path: Path) -> None:
    auto_map = {"AutoModelForCausalLM": "modeling_mobillama.LlamaForCausalLM"}
    (warning,) = tiny_source(tmp_path, "llama", auto_map=auto_map).warnings
    assert "modeling_mobillama.py" in warning and "--trust-checkpoint-code" in warning
    (warning,) = tiny_source(tmp_path, "llama", architectures=["LlamaForCausalLMEagle"]).warnings
    assert "LlamaForCausalLMEagle" in warning
    auto_map = {"AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM"}
    assert tiny_source(tmp_path, "baichuan 7B", auto_map=auto_map, architectures=["BaichuanForCausalLM"]).warnings == ()
