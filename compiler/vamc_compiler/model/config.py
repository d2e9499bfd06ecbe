"""The model's configuration as published (`config.json`), with the rank's place in it.

Both spellings in use are read: that of transformers 4 (`torch_dtype`, `rope_theta`, `rope_scaling`) and that of
transformers 5 (`dtype`, `rope_parameters`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vamc_runtime.errors import UserError


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object; `what` names the file in errors.

    Raises:
        UserError: the file is missing, unreadable or not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist",
            expected=f"{what} of a Hugging Face checkpoint directory",
            fix="check frontend.checkpoint (or $VAMC_CHECKPOINT)",
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}", expected=f"{what}, a JSON object") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}", expected=f"{what}, a JSON object")
    return content


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


def _require(raw: Mapping[str, Any], key: str, path: Path) -> int:
    value = raw.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        found = "lacks" if value is None else f"has {value!r} for"
        raise UserError(f"{path} {found} {key!r}", expected="a positive whole number")
    return value


def _rope(raw: Mapping[str, Any]) -> tuple[float, Mapping[str, Any] | None]:
    """Rotary base and scaling from either spelling; the kind always under `rope_type`."""
    parameters = raw.get("rope_parameters") or {}
    theta = float(parameters.get("rope_theta", raw.get("rope_theta") or 10000.0))
    scaling = dict(parameters or raw.get("rope_scaling") or {})
    kind = scaling.pop("type", None)
    scaling.setdefault("rope_type", kind or "default")
    scaling.pop("rope_theta", None)
    return theta, None if scaling["rope_type"] == "default" else scaling


def model_config_from(raw: Mapping[str, Any], path: Path) -> ModelConfig:
    """Build the configuration from the content of `path`.

    Raises:
        UserError: a size is missing, not a positive whole number, or the sizes contradict one another.
    """
    hidden, heads = _require(raw, "hidden_size", path), _require(raw, "num_attention_heads", path)
    if raw.get("head_dim") is None and hidden % heads:
        raise UserError(
            f"{path} has hidden_size {hidden}, which num_attention_heads {heads} does not divide",
            expected="head_dim, or a hidden_size that is a multiple of num_attention_heads",
        )
    longest = raw.get("max_position_embeddings") or raw.get("model_max_length")
    if not isinstance(longest, int):
        raise UserError(
            f"{path} has neither 'max_position_embeddings' nor 'model_max_length'",
            expected="the longest context in tokens that the model was made for",
        )
    if raw.get("hidden_act", "silu") not in ("silu", "swish"):
        raise UserError(f"{path} has hidden_act {raw['hidden_act']!r}", expected="silu")
    theta, scaling = _rope(raw)
    return ModelConfig(
        model_type=str(raw.get("model_type", "")),
        vocab_size=_require(raw, "vocab_size", path),
        hidden_size=hidden,
        intermediate_size=_require(raw, "intermediate_size", path),
        num_hidden_layers=_require(raw, "num_hidden_layers", path),
        num_attention_heads=heads,
        num_key_value_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or hidden // heads,
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        max_position_embeddings=longest,
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        rope_theta=theta,
        rope_scaling=scaling,
        raw=dict(raw),
        insert_slice=bool(raw.get("insert_slice", True)),
    )
