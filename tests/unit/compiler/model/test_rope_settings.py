"""Rotary settings in each spelling, against transformers' own reading of the same config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import CONFIGS, SOURCE_CODE
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from vamc_compiler.model.config import ModelConfig, model_config_from
from vamc_compiler.model.source_code import load_module, load_package
from vamc_runtime.errors import UserError

BASE = {**CONFIGS["llama"], "head_dim": 64, "hidden_size": 384, "max_position_embeddings": 4096}
LINEAR: dict[str, Any] = {"factor": 2.5}
LLAMA3: dict[str, Any] = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN: dict[str, Any] = {"factor": 4.0}
ORIGINAL = {"original_max_position_embeddings": 1024}


def parse(**changes: Any) -> ModelConfig:
    return model_config_from({**BASE, **changes}, Path("config.json"))


def message(**changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        parse(**changes)
    return str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rope_theta": 5e5},
        {"rope_theta": 500000},
        {"rope_scaling": None, "rope_theta": 1e6},
        {"rope_scaling": {}, "rope_parameters": {}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        {"rope_parameters": {"rope_theta": 1e6}},
        {"rope_parameters": {"rope_type": "default"}, "rope_theta": 3e4},
        {"rope_scaling": {"rope_theta": 2e4, "type": "default"}},
        {"rope_scaling": {"type": "linear", **LINEAR}, "rope_theta": 2e4},
        {"rope_scaling": {"rope_type": "linear", "type": "linear", **LINEAR}},
        {"rope_parameters": {"rope_type": "linear", **LINEAR, "rope_theta": 2e4}},
        {"rope_parameters": {"rope_type": "linear", **LINEAR}, "rope_scaling": {"type": "linear", **LINEAR}},
        {"rope_scaling": {"type": "dynamic", "factor": 4}},
        {"rope_scaling": {"rope_type": "llama3", **LLAMA3, **ORIGINAL}},
        {"rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        {"rope_scaling": {"rope_type": "llama3", **LLAMA3}, **ORIGINAL},
        {"rope_parameters": {"rope_type": "yarn", **YARN, **ORIGINAL, "rope_theta": 1e6}},
        {"rope_scaling": {"type": "yarn", **YARN}, **ORIGINAL},
        {"rope_scaling": {"type": "yarn", **YARN, **ORIGINAL, "finetuned": True, "beta_fast": None}},
        {"rope_scaling": {"type": "yarn", **YARN, **ORIGINAL, "truncate": False, "mscale": 0.7, "mscale_all_dim": 1.3}},
        {"rope_scaling": {"type": "yarn", **YARN, **ORIGINAL, "beta_fast": 2.0, "beta_slow": 1.9, "truncate": False}},
        {"rope_scaling": {"type": "linear", **LINEAR, "low_freq_factor": 3.0}},
        {"partial_rotary_factor": 1.0},
        {"partial_rotary_factor": None},
    ],
    ids=str,
)
def test_frequencies_are_those_of_transformers(changes: dict[str, Any]) -> None:
    raw = {**BASE, **changes}
    expected = LlamaRotaryEmbedding(LlamaConfig(**{key: _copied(value) for key, value in raw.items()}))
    rotary = load_module(load_package([SOURCE_CODE]), "rotary.py")
    config = parse(**changes)
    frequencies, factor = rotary.rotary_frequencies(config)
    np.testing.assert_allclose(frequencies, expected.inv_freq.numpy(), rtol=2e-6)
    assert factor == pytest.approx(expected.attention_scaling)
    assert config.rotary_share == 1.0


def _copied(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}},
            ["10000.0", "1000000.0", "rope_parameters.rope_theta"],
        ),
        ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2}}, ["rope_scaling.rope_type", "linear"]),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_type": "linear", "factor": 3}},
            ["'rope_parameters' and 'rope_scaling'", "differ"],
        ),
        (
            {**ORIGINAL, "rope_scaling": {"type": "yarn", **YARN, "original_max_position_embeddings": 2048}},
            ["1024", "2048"],
        ),
        ({"partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 1.0}}, ["partial_rotary_factor"]),
    ],
)
def test_spellings_that_contradict_are_refused(changes: dict[str, Any], parts: list[str]) -> None:
    text = message(**changes)
    assert all(part in text for part in parts)


@pytest.mark.parametrize("value", [None, True, "1e4", [1], {}, float("nan"), float("inf"), 0, -1.0, 10**400], ids=str)
def test_values_of_other_types_are_refused_in_every_place(value: Any) -> None:
    for changes in (
        {"rope_theta": value},
        {"rope_parameters": {"rope_theta": value}},
        {"rope_scaling": {"type": "linear", "factor": value}},
        {"rope_parameters": {"rope_type": "llama3", **LLAMA3, "low_freq_factor": value}},
        {"rope_scaling": {"type": "yarn", "factor": value}},
    ):
        assert "config.json has " in message(**changes)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"rope_scaling": "linear"}, "\"linear\" (a text) for 'rope_scaling'"),
        ({"rope_scaling": []}, "a list for 'rope_scaling'"),
        ({"rope_parameters": True}, "true (a boolean) for 'rope_parameters'"),
        ({"rope_scaling": {"type": None, "factor": 2}}, "null for 'rope_scaling.type'"),
        ({"rope_scaling": {"rope_type": 3}}, "3 (a whole number) for 'rope_scaling.rope_type'"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
            "an object for 'rope_parameters.full_attention'",
        ),
        ({"rope_scaling": {"type": "yarn", **YARN, "truncate": 1}}, "1 (a whole number) for 'rope_scaling.truncate'"),
        ({"rope_scaling": {"type": "yarn", **YARN, "beta_fast": 1, "beta_slow": 2}}, "beta_fast 1.0"),
        ({"rope_scaling": {"type": "yarn", **YARN}, "rope_theta": 1.0}, "1.0 for 'rope_theta'"),
        (
            {"rope_scaling": {"rope_type": "llama3", **LLAMA3, "high_freq_factor": 1.0}},
            "'rope_scaling.high_freq_factor'",
        ),
        ({"rope_scaling": {"type": "linear"}}, "lacks 'rope_scaling.factor'"),
        ({"original_max_position_embeddings": "4k"}, "'original_max_position_embeddings'"),
    ],
)
def test_what_is_said(changes: dict[str, Any], found: str) -> None:
    assert found in message(**changes)
