"""What the built-in modeling files compute: settings of config.json that ask for something else are refused by name.

A key that no table here knows changes nothing in transformers' own classes either: they ignore it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from vamc_compiler.model.config import ModelConfig
from vamc_compiler.model.fields import Fields
from vamc_compiler.model.rope import DEFAULT_THETA, SUPPORTED_ROPE_TYPES
from vamc_compiler.show import describe_json
from vamc_runtime.errors import UserError

# Key -> the values with which it changes nothing, beside null. Other values mean another model: biases, norms,
# scales, windows, experts and positions of families that publish LLaMA-like configurations.
_WITHOUT_EFFECT: Mapping[str, tuple[object, ...]] = {
    **dict.fromkeys(
        (
            "qkv_bias",
            "use_qkv_bias",
            "add_qkv_bias",
            "use_bias",
            "bias",
            "add_bias_linear",
            "qk_norm",
            "use_qk_norm",
            "qk_layernorm",
            "use_qk_layernorm",
            "use_parallel_residual",
            "parallel_residual",
            "parallel_attn",
            "alibi",
            "use_alibi",
            "use_logn_attn",
            "use_dynamic_ntk",
            "use_sliding_window",
            "attn_temperature_tuning",
            "rope_interleaved",
            "rope_interleave",
            "is_encoder_decoder",
            "add_cross_attention",
        ),
        (False,),
    ),
    **dict.fromkeys(
        (
            "embedding_multiplier",
            "residual_multiplier",
            "logits_scaling",
            "logit_scale",
            "scale_emb",
            "rotary_pct",
            "rotary_percent",
            "rope_ratio",
        ),
        (1,),
    ),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "num_moe_experts"), (0,)),
    **dict.fromkeys(
        (
            "attention_multiplier",
            "scale_depth",
            "dim_model_base",
            "clip_qkv",
            "attention_chunk_size",
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "query_pre_attn_scalar",
            "no_rope_layer_interval",
            "kv_sharing_modes",
            "per_layer_config",
            "block_configs",
            "rotary_dim",
        ),
        (),
    ),
    "no_rope_layers": ([],),
    "is_causal": (True,),
    "rotary_emb_base": (DEFAULT_THETA,),
}
# The same where null is a mistake.
_ONLY: Mapping[str, tuple[object, ...]] = {
    "hidden_act": ("silu", "swish"),
    "hidden_activation": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
}


def is_one_of(value: object, allowed: tuple[object, ...] | list[object]) -> bool:
    """Whether a value of a JSON file is among others; 1 and true are different values."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in allowed)


def check_supported(
    config: ModelConfig, fields: Fields, *, handled: Collection[str], rotary: bool, fixed_by_code: bool, label: str
) -> None:
    """Refuse what the built-in modeling file of a model does not compute.

    Args:
        config: the model's configuration.
        fields: the config.json it was read from.
        handled: keys that the modeling file computes by itself.
        rotary: whether positions are rotated.
        fixed_by_code: whether the published code of the family fixes rotary base and head widths, so that keys for
            them would be ignored by the original and obeyed here.
        label: the model in messages.

    Raises:
        UserError: names every key in the way with its value.
    """
    problems = [*_other_models(fields, handled), *_windows(config, fields, handled)]
    kind = (config.rope_scaling or {}).get("rope_type", "default")
    if kind not in SUPPORTED_ROPE_TYPES and "rope_type" not in handled:
        problems.append(f"rope_type {describe_json(kind)}, not one of {', '.join(SUPPORTED_ROPE_TYPES)}")
    if config.rotary_share != 1.0 and "partial_rotary_factor" not in handled:
        problems.append(f"partial_rotary_factor {config.rotary_share}, not 1.0")
    if rotary and config.head_dim % 2:
        problems.append(f"heads of width {config.head_dim}, which rotary positions cannot halve")
    if fixed_by_code:
        problems += _fixed(config)
    if problems:
        shown = "".join(f"\n  - {problem}" for problem in problems)
        raise UserError(
            f"{fields.path} asks for what the modeling file of {label} does not compute:{shown}",
            expected="a model without these settings",
            fix="write a modeling file for it and add a row to models.yaml (docs/architecture.md)",
        )


def _other_models(fields: Fields, handled: Collection[str]) -> Iterator[str]:
    """Keys of the tables above with another value."""
    for key, value in fields.raw.items():
        if key in handled:
            continue
        if key in _ONLY and not is_one_of(value, _ONLY[key]):
            allowed = [describe_json(other).partition(" (")[0] for other in _ONLY[key]]
            yield f"{key} {describe_json(value)}, not {' or '.join(allowed)}"
        elif key in _WITHOUT_EFFECT and value is not None and not is_one_of(value, _WITHOUT_EFFECT[key]):
            allowed = [describe_json(other).partition(" (")[0] for other in (*_WITHOUT_EFFECT[key], None)]
            yield f"{key} {describe_json(value)}, not {' or '.join(allowed)}"


def _windows(config: ModelConfig, fields: Fields, handled: Collection[str]) -> Iterator[str]:
    """Attention that does not see every earlier token."""
    window = None if "sliding_window" in handled else fields.raw.get("sliding_window")
    if window is not None and fields.raw.get("use_sliding_window") is not False:
        covers = isinstance(window, int) and not isinstance(window, bool) and window >= config.max_position_embeddings
        if not covers:
            longest = config.max_position_embeddings
            yield f"sliding_window {describe_json(window)}, not null or {longest} (the longest context) or more"
    layers = None if "layer_types" in handled else fields.raw.get("layer_types")
    if layers is not None and not (isinstance(layers, list) and all(layer == "full_attention" for layer in layers)):
        yield "layer_types of other kinds than full_attention"


def _fixed(config: ModelConfig) -> Iterator[str]:
    """What the published code of the family does not read from its configuration."""
    if config.rope_theta != DEFAULT_THETA:
        yield f"rope_theta {config.rope_theta}; the family's code has {DEFAULT_THETA}, whatever the file says"
    if config.rope_scaling is not None:
        yield f"rotary scaling {config.rope_scaling['rope_type']}; the family's code has none"
    if config.num_key_value_heads != config.num_attention_heads:
        yield f"num_key_value_heads {config.num_key_value_heads}; the family's code has as many as query heads"
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        yield f"head_dim {config.head_dim}; the family's code has hidden_size / num_attention_heads"
