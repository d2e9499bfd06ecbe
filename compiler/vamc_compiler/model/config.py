"""The model's configuration as published (`config.json`), with the rank's place in it.

Both spellings in use are read: that of transformers 4 (`torch_dtype`, `rope_theta`, `rope_scaling`) and that of
transformers 5 (`dtype`, `rope_parameters`). Every value is checked for its type; which values a modeling file computes
is another matter (`supported.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vamc_compiler.model.fields import Fields
from vamc_compiler.model.rope import read_rope
from vamc_runtime.errors import UserError

# What no model reaches: a damaged file must not make the compiler build a billion layers.
_LARGEST = {
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 24,
    "num_hidden_layers": 1 << 12,
    "num_attention_heads": 1 << 16,
    "num_key_value_heads": 1 << 16,
    "head_dim": 1 << 16,
}
# Of a LLaMA that does not say, as conversions of the first one do not (transformers 5.24, configuration_llama.py).
_LLAMA_LONGEST = 2048


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a modeling file reads; keys beyond the fields stay available through `raw`."""

    model_type: str
    """`model_type` of config.json."""
    vocab_size: int
    """Rows of the embedding and of the head."""
    hidden_size: int
    """Width of the residual stream."""
    intermediate_size: int
    """Width of the gated feed-forward layer."""
    num_hidden_layers: int
    """Decoder layers."""
    num_attention_heads: int
    """True number of query heads, before any padding."""
    num_key_value_heads: int
    """True number of key/value heads; equal to the query heads without grouping."""
    head_dim: int
    """Width of one head."""
    rms_norm_eps: float
    """Added to the mean square in every RMSNorm."""
    max_position_embeddings: int
    """Longest context in tokens that the model was made for."""
    tie_word_embeddings: bool
    """Whether the head shares the embedding's tensor."""
    rope_theta: float
    """Base of the rotary frequencies."""
    rope_scaling: Mapping[str, Any] | None
    """Rotary scaling as published, with its kind under `rope_type`; None when unscaled."""
    rotary_share: float = 1.0
    """Share of a head's width that is rotated."""
    normalize_head: bool = False
    """Whether the rows of the head are divided by their length (Baichuan2); set by `find_model`."""
    raw: Mapping[str, Any] = field(repr=False)
    """The whole of config.json."""
    rank_num: int = 1
    """Tensor-parallel degree; set by the compiler."""
    rank_index: int = 0
    """This rank, from 0; set by the compiler."""
    insert_slice: bool = True
    """Whether logits are computed only at `logits_index`; set by the compiler."""

    def for_rank(self, rank_index: int, rank_num: int) -> ModelConfig:
        """The same model seen from one rank."""
        return replace(self, rank_index=rank_index, rank_num=rank_num)


def model_config_from(raw: Mapping[str, Any], path: Path) -> ModelConfig:
    """Build the configuration from the content of `path`.

    Raises:
        UserError: a value is missing, of another type or out of range, or the values contradict one another.
    """
    fields = Fields(raw, path)
    sizes = {
        key: fields.integer(key, maximum=_LARGEST[key])
        for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    }
    longest = _longest(fields)
    rope = read_rope(fields, longest)
    return ModelConfig(
        model_type=fields.text("model_type", null=True) or "",
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["intermediate_size"],
        num_hidden_layers=sizes["num_hidden_layers"],
        num_attention_heads=sizes["num_attention_heads"],
        num_key_value_heads=_num_key_value_heads(fields, sizes["num_attention_heads"]),
        head_dim=_head_dim(fields, sizes["hidden_size"], sizes["num_attention_heads"]),
        rms_norm_eps=fields.number("rms_norm_eps", minimum=0.0) if fields.has("rms_norm_eps") else 1e-6,
        max_position_embeddings=longest,
        tie_word_embeddings=fields.flag("tie_word_embeddings", default=False),
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        rotary_share=rope.rotary_share,
        raw=dict(raw),
        insert_slice=fields.flag("insert_slice", default=True),
    )


def _longest(fields: Fields) -> int:
    """The longest context; Baichuan 13B has it under the second name, which means nothing to a LLaMA."""
    if fields.raw.get("model_type") == "llama":
        return fields.integer("max_position_embeddings") if fields.has("max_position_embeddings") else _LLAMA_LONGEST
    for key in ("max_position_embeddings", "model_max_length"):
        if fields.has(key, null=True):
            return fields.integer(key)
    raise UserError(
        f"{fields.path} has neither 'max_position_embeddings' nor 'model_max_length'",
        expected="the longest context in tokens that the model was made for",
    )


def _num_key_value_heads(fields: Fields, heads: int) -> int:
    found = fields.optional_integer("num_key_value_heads", maximum=_LARGEST["num_key_value_heads"])
    if found is not None and heads % found:
        raise fields.wrong("num_key_value_heads", f"a divisor of num_attention_heads, which is {heads}")
    return heads if found is None else found


def _head_dim(fields: Fields, hidden: int, heads: int) -> int:
    found = fields.optional_integer("head_dim", maximum=_LARGEST["head_dim"])
    if found is None and hidden % heads:
        raise UserError(
            f"{fields.path} has hidden_size {hidden}, which num_attention_heads {heads} does not divide",
            expected="head_dim, or a hidden_size that is a multiple of num_attention_heads",
        )
    return hidden // heads if found is None else found
