"""Rotary position embedding, rotate-half form, with the frequency scalings of published LLaMA checkpoints.

Formulas: RoPE, arXiv 2104.09864; linear scaling, arXiv 2306.15595; YaRN, arXiv 2309.00071; llama3, the scheme
published with Llama 3.1 (low, high frequency factors and the original context length in config.json).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vamc_compiler.model.config import ModelConfig
from vamc_compiler.model.rope import SUPPORTED_ROPE_TYPES
from vamc_runtime.errors import UserError

from .parallel_layers import add_constant

Frequencies = npt.NDArray[np.float32]


def _llama3(frequencies: Frequencies, scaling: Mapping[str, Any]) -> Frequencies:
    """Divide low frequencies by `factor`, keep high ones, blend between."""
    factor, low, high = (float(scaling[k]) for k in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = float(scaling["original_max_position_embeddings"]) * frequencies / (2 * math.pi)
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return keep * frequencies + (1 - keep) * frequencies / factor


def _yarn(frequencies: Frequencies, scaling: Mapping[str, Any], base: float) -> Frequencies:
    """Interpolate between scaled and unscaled frequencies along a ramp over the dimensions."""
    head_dim = 2 * len(frequencies)
    original = float(scaling["original_max_position_embeddings"])

    def dimension(turns: float) -> float:
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = dimension(float(scaling["beta_fast"]))
    high = dimension(float(scaling["beta_slow"]))
    if scaling["truncate"]:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = np.clip((np.arange(len(frequencies)) - low) / ((high - low) or 1e-3), 0.0, 1.0)
    return ramp * frequencies / float(scaling["factor"]) + (1 - ramp) * frequencies


def _yarn_attention_factor(scaling: Mapping[str, Any]) -> float:
    """The factor on cosine and sine that keeps the attention's temperature."""
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])

    def temperature(factor: float, weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    factor, mscale, all_dim = float(scaling["factor"]), scaling.get("mscale"), scaling.get("mscale_all_dim")
    if mscale and all_dim:
        return temperature(factor, float(mscale)) / temperature(factor, float(all_dim))
    return temperature(factor, 1.0)


def rotary_frequencies(config: ModelConfig) -> tuple[Frequencies, float]:
    """Frequencies float32 [head_dim / 2] in radians per position, and the factor on cosine and sine.

    Raises:
        UserError: the checkpoint uses a scaling that is not supported.
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = (1.0 / np.float32(config.rope_theta) ** exponents).astype(np.float32)
    scaling = config.rope_scaling or {}
    kind = scaling.get("rope_type", "default")
    factor = 1.0
    if kind == "linear":
        frequencies = frequencies / scaling["factor"]
    elif kind == "llama3":
        frequencies = _llama3(frequencies, scaling)
    elif kind == "yarn":
        frequencies = _yarn(frequencies, scaling, config.rope_theta)
        factor = _yarn_attention_factor(scaling)
    elif kind not in ("default", "dynamic"):
        # Dynamic scaling changes nothing up to max_position_embeddings, beyond which no context compiles.
        raise UserError(f"config.json has rope_type {kind!r}", expected=f"one of {', '.join(SUPPORTED_ROPE_TYPES)}")
    return frequencies.astype(np.float32), factor


class RotaryEmbedding(nn.Module):
    """Cosine and sine of every token's angles, computed once per step for all layers."""

    inverse_frequencies: torch.Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        frequencies, self.factor = rotary_frequencies(config)
        add_constant(self, "inverse_frequencies", np.concatenate((frequencies, frequencies)))

    def forward(self, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine float32 [n, 1, head_dim] of position_ids int32 [n]."""
        angles = position_ids.to(torch.float32)[:, None, None] * self.inverse_frequencies
        cosine, sine = angles.cos(), angles.sin()
        return (cosine, sine) if self.factor == 1.0 else (cosine * self.factor, sine * self.factor)
