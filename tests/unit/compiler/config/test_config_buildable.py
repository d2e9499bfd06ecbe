"""Configs that load and cannot be built."""

from __future__ import annotations

import pytest
from fixture_types import Load

from vamc_compiler.config import check_buildable
from vamc_runtime.errors import UserError


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["backend.dtype=bf16"],
        ["frontend.quantize.type=int8_per_channel", "backend.dtype=int8"],
        ["frontend.quantize={type: w8a8_dynamic, lm_head: true}", "backend.dtype=int8"],
    ],
)
def test_can_be_built(load: Load, good: str, overrides: list[str]) -> None:
    check_buildable(load(good, *overrides))


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["frontend.quantize.type=w8a16_gptq", "backend.dtype=int8"], "frontend.quantize.type", "w8a16_gptq"),
        (["frontend.quantize.type=w16kv8"], "frontend.quantize.type", "w16kv8"),
        (["backend.target.kind=cuda"], "backend.target.kind", "cuda"),
        (["frontend.shape.input_ids=[[512],[]]"], "frontend.shape.input_ids", "[[512], []]"),
    ],
)
def test_cannot_be_built(load: Load, good: str, overrides: list[str], key: str, value: str) -> None:
    config = load(good, *overrides)
    with pytest.raises(UserError) as caught:
        check_buildable(config)
    assert caught.value.found.splitlines()[0] == f"{config.source_path}: this version cannot build"
    assert caught.value.found.splitlines()[1].startswith(f"  --set {overrides[0]}: {key}: {value}")
    assert "int8_per_channel" in caught.value.expected
    assert caught.value.fix == f"change {key}"


def test_all_obstacles_at_once(load: Load, good: str) -> None:
    config = load(good, "backend.target.kind=cuda", "frontend.shape.input_ids=[[512],[]]")
    with pytest.raises(UserError) as caught:
        check_buildable(config)
    assert caught.value.fix == "change backend.target.kind and frontend.shape.input_ids"
