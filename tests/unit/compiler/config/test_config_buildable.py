"""Configs that load and cannot be built."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from fixture_types import Load

from vamc_compiler.commands import check
from vamc_compiler.config import check_buildable, find_obstacles
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
    ("overrides", "key", "value", "nearest"),
    [
        (
            ["frontend.quantize.type=w8a16_gptq", "backend.dtype=int8"],
            "frontend.quantize.type",
            "w8a16_gptq",
            ["frontend.quantize.type=int8_per_channel"],
        ),
        (["frontend.quantize.type=w16kv8"], "frontend.quantize.type", "w16kv8", ["frontend.quantize=null"]),
        (
            ["frontend.quantize.type=w16kv8", "backend.dtype=int8"],
            "frontend.quantize.type",
            "w16kv8",
            ["frontend.quantize=null", "backend.dtype=fp16"],
        ),
        (["backend.target.kind=cuda"], "backend.target.kind", "cuda", ["backend.target.kind=llvm"]),
        (["frontend.shape.input_ids=[[512],[]]"], "frontend.shape.input_ids", "[[512], []]", []),
    ],
)
def test_cannot_be_built(load: Load, good: str, overrides: list[str], key: str, value: str, nearest: list[str]) -> None:
    """The message offers what comes nearest, and that can be built."""
    config = load(good, *overrides)
    with pytest.raises(UserError) as caught:
        check_buildable(config)
    assert caught.value.found.splitlines()[0] == f"{config.source_path}: this version cannot build"
    assert caught.value.found.splitlines()[1].startswith(f"  --set {overrides[0]}: {key}: {value}")
    assert "int8_per_channel" in caught.value.expected
    (obstacle,) = find_obstacles(config)
    assert (obstacle.key, obstacle.source) == (key, f"--set {overrides[0]}")
    assert obstacle.nearest.split(" (")[0] == " ".join(f"--set {option}" for option in nearest)
    assert caught.value.fix == (obstacle.nearest or f"change {key}")
    if nearest:
        check_buildable(load(good, *overrides, *nearest))


def test_all_obstacles_at_once(load: Load, good: str) -> None:
    config = load(good, "backend.target.kind=cuda", "frontend.shape.input_ids=[[512],[]]")
    with pytest.raises(UserError) as caught:
        check_buildable(config)
    assert caught.value.fix.endswith("(for CPUs) and change frontend.shape.input_ids")


@pytest.mark.parametrize("as_json", [False, True])
def test_check_notes_what_cannot_be_built(
    load: Load, good: str, as_json: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The config is right: exit status 0, and a note with what comes nearest."""
    path = load(good).source_path
    overrides = ["frontend.quantize.type=w8a16_gptq", "backend.dtype=int8"]
    options = argparse.Namespace(config=path, overrides=overrides, json=as_json)
    assert check.run(options) == 0
    output = capsys.readouterr().out
    if as_json:
        document = json.loads(output)
        assert not document["buildable"]
        assert [obstacle["key"] for obstacle in document["obstacles"]] == ["frontend.quantize.type"]
    else:
        assert "note: this version cannot build it yet:" in output
        assert "--set frontend.quantize.type=int8_per_channel" in output
