"""Rotary frequencies against transformers, ALiBi slopes against the formula."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import CONFIGS, SOURCE_CODE, tiny_source
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from vamc_compiler.model.config import ModelConfig, model_config_from
from vamc_compiler.model.source_code import load_module, load_package
from vamc_compiler.ops.paged_attention import rotate
from vamc_compiler.parameters import FromValue
from vamc_compiler.precision import ModelPrecision
from vamc_compiler.trace.rank_module import build_rank, list_parameters
from vamc_runtime.errors import UserError


def load(file: str) -> ModuleType:
    return load_module(load_package([SOURCE_CODE]), file)


def config_of(head_dim: int = 64, **changes: Any) -> ModelConfig:
    sizes = {"hidden_size": 4 * head_dim, "num_attention_heads": 4, "head_dim": head_dim}
    return model_config_from({**CONFIGS["llama"], **sizes, **changes}, Path("config.json"))


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"rope_type": "linear", "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": {**LLAMA3, "factor": 8.0, "original_max_position_embeddings": 8192},
    "llama3, 3.2": {**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 8192},
    "llama3, short": {**LLAMA3, "factor": 2.0, "original_max_position_embeddings": 64},
    "yarn": YARN,
    "yarn, betas": {**YARN, "beta_fast": 16.0, "beta_slow": 2.0},
    "yarn, not truncated": {**YARN, "truncate": False},
    "yarn, attention factor": {**YARN, "attention_factor": 0.8},
    "yarn, mscale": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3},
    "yarn, factor 1": {**YARN, "factor": 1.0},
}


@pytest.mark.parametrize("head_dim", [8, 64, 128])
@pytest.mark.parametrize("theta", [10000.0, 500000.0])
@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies_equal_those_of_transformers(name: str, theta: float, head_dim: int) -> None:
    scaling = {"rope_type": "default", "rope_theta": theta} | SCALINGS[name]
    published = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=8192,
        rope_parameters=dict(scaling),
    )
    expected = LlamaRotaryEmbedding(published)
    config = config_of(head_dim, max_position_embeddings=8192, rope_parameters=scaling)
    frequencies, factor = load("rotary.py").rotary_frequencies(config)
    assert frequencies.dtype == np.float32
    np.testing.assert_allclose(frequencies, expected.inv_freq.numpy(), rtol=2e-6)
    assert factor == pytest.approx(expected.attention_scaling)


@pytest.mark.parametrize("name", ["default", "yarn"])
def test_rotation_equals_that_of_transformers(name: str) -> None:
    scaling = {"rope_type": "default", "rope_theta": 10000.0} | SCALINGS[name]
    published = LlamaConfig(hidden_size=64, num_attention_heads=4, head_dim=16, rope_parameters=dict(scaling))
    rotary = load("rotary.py")
    position_ids = torch.tensor([0, 1, 5, 1000, 2047], dtype=torch.int32)
    x = torch.randn(5, 3, 16, generator=torch.Generator().manual_seed(0))
    embedding = rotary.RotaryEmbedding(config_of(16, rope_parameters=scaling))
    found = rotate(x, *embedding(position_ids))
    cosine, sine = LlamaRotaryEmbedding(published)(x, position_ids[None])
    expected, _ = apply_rotary_pos_emb(x[None], x[None], cosine, sine, unsqueeze_dim=2)
    torch.testing.assert_close(found, expected[0], rtol=1e-5, atol=2e-4)


def test_an_unknown_scaling_is_refused() -> None:
    config = config_of(rope_scaling={"type": "longrope", "factor": 2.0})
    with pytest.raises(UserError, match="has rope_type 'longrope'") as caught:
        load("rotary.py").rotary_frequencies(config)
    assert "default, linear, dynamic, llama3, yarn" in caught.value.expected


@pytest.mark.parametrize(("kind", "missing"), [("linear", "factor"), ("llama3", "low_freq_factor"), ("yarn", "factor")])
def test_a_scaling_without_its_number_is_refused(kind: str, missing: str) -> None:
    scaling = {key: value for key, value in SCALINGS[kind].items() if key != missing}
    with pytest.raises(UserError, match=rf"lacks 'rope_scaling\.{missing}'"):
        config_of(rope_scaling=scaling)


def test_slopes_of_powers_of_two() -> None:
    slopes = load("modeling_baichuan13b_vacc.py").alibi_slopes(8)
    assert slopes == [2.0**-i for i in range(1, 9)]


def test_slopes_between_powers_of_two() -> None:
    """The lower power's slopes, then the odd ones of twice that power (arXiv 2108.12409, appendix)."""
    alibi_slopes = load("modeling_baichuan13b_vacc.py").alibi_slopes
    assert alibi_slopes(6) == pytest.approx([2.0 ** (-2 * i) for i in range(1, 5)] + [2.0**-1, 2.0**-3])
    forty = [2.0 ** (-8 * i / 32) for i in range(1, 33)] + [2.0 ** (-8 * i / 64) for i in range(1, 16, 2)]
    assert alibi_slopes(40) == pytest.approx(forty)
    assert alibi_slopes(1) == [2.0**-8]


@pytest.mark.parametrize(("num_heads", "num_ranks"), [(6, 1), (6, 4), (8, 3), (40, 16), (40, 32)])
def test_slopes_are_those_of_the_true_heads_on_every_rank(tmp_path: Path, num_heads: int, num_ranks: int) -> None:
    """Computed for the padded count they would be other numbers; a padded head has slope 0."""
    source = tiny_source(tmp_path, "baichuan 13B", num_attention_heads=num_heads, hidden_size=4 * num_heads)
    every = load("modeling_baichuan13b_vacc.py").alibi_slopes(num_heads)
    slopes: list[float] = []
    for rank in range(num_ranks):
        model = build_rank(source, source.config.for_rank(rank, num_ranks), ModelPrecision())
        specs = [spec for spec in list_parameters(model) if spec.name.endswith("slopes")]
        assert len(specs) == 2
        first = specs[0].origin
        assert isinstance(first, FromValue)
        for spec in specs:
            assert isinstance(spec.origin, FromValue)
            assert spec.shape == spec.origin.value.shape
            np.testing.assert_array_equal(spec.origin.value, first.value)
        slopes += first.value.tolist()
    np.testing.assert_allclose(slopes[:num_heads], every, rtol=1e-7)
    assert not any(slopes[num_heads:])
