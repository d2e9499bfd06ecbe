"""The effective settings as data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fixture_types import Load

from vamc_compiler.config import effective_settings, flat_settings


def test_settings_are_json_and_hold_defaults(load: Load, good: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = dict(effective_settings(load(good)))
    assert json.loads(json.dumps(settings)) == settings
    assert settings["frontend"]["checkpoint"] == str(tmp_path / "in/model")
    assert settings["frontend"]["shape"] == {"input_ids": [[256], [1024]]}
    assert settings["frontend"]["quantize"] is None
    assert settings["backend"]["target"] == {"kind": "llvm", "mcpu": []}
    assert settings["workspace"]["workers"] == 1
    assert settings["runtime"] == {"huge_pages": "auto"}
    budget = ("mean_kl", "same_top", "perplexity_ratio", "modeling_error", "rounding_error", "block_error")
    assert settings["verify"] == {
        "when": "compile",
        "tokens": 256,
        "text": None,
        "budget": dict.fromkeys(budget),
    }
    assert list(settings) == ["name", "frontend", "backend", "dataset", "workspace", "runtime", "verify"]


def test_settings_load_again(load: Load, good: str) -> None:
    extras = [
        "dataset={name: alpaca, path: d}",
        "workspace.pyenv={a: 1.0}",
        "frontend.quantize={type: w8a16_gptq}",
        "backend.dtype=int8",
        "runtime.huge_pages=off",
        "verify={when: off, tokens: 64, text: sample.txt, budget: {mean_kl: 1e-7, same_top: 1}}",
    ]
    settings = effective_settings(load(good, *extras))
    assert effective_settings(load(settings)) == settings
    assert effective_settings(load(json.dumps(settings))) == settings


def test_every_setting_has_a_source(load: Load, good: str) -> None:
    config = load(good, "workspace.pyenv={a: 1.0}")
    assert config.setting_sources.keys() == flat_settings(config).keys()
    assert flat_settings(config)["workspace.pyenv"] == {"a": "1.0"}
    assert config.setting_sources["workspace.pyenv"] == "--set workspace.pyenv={a: 1.0}"
    assert config.setting_sources["dataset"] == "default"
