"""Rank files that are damaged: a problem where a tensor is, a message where the file is."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rank_weights import make_build, write_files

from vamc_compiler.parameters import FromValue, ParameterSpec
from vamc_compiler.verify.weights import NOWHERE
from vamc_runtime.errors import UserError


def rename(path: Path, old: str, new: str) -> None:
    """Change the header without moving the data."""
    data = path.read_bytes()
    assert len(old) == len(new) and data.count(old.encode()) == 1
    path.write_bytes(data.replace(old.encode(), new.encode()))


def test_missing_tensor(tmp_path: Path) -> None:
    build = make_build(tmp_path, "llama", 2)
    rename(build.path(1), "model.norm.weight", "model.norm.weighs")
    problem = build.only_problem()
    assert (problem.parameter, problem.rank, problem.kind) == ("model.norm.weight", 1, "missing")
    assert math.isnan(problem.expected) and problem.first_row == NOWHERE and problem.num_different == 24
    assert str(problem) == (
        "model.norm.weight of rank 1: missing: rank_1/params.safetensors has no tensor of this name"
    )


def test_wrong_type(tmp_path: Path) -> None:
    build = make_build(tmp_path, "llama", 1)
    header = '"model.embed_tokens.weight":{"dtype":'
    rename(build.path(0), f'{header}"F16"', f'{header}"I16"')
    problem = build.only_problem()
    assert (problem.parameter, problem.kind, problem.hint) == ("model.embed_tokens.weight", "type", "I16, not F16")


def test_wrong_shape(tmp_path: Path) -> None:
    build = make_build(tmp_path, "llama", 1)
    rename(build.path(0), '"model.embed_tokens.weight":{"dtype":"F16","shape":[50,24]',
           '"model.embed_tokens.weight":{"dtype":"F16","shape":[24,50]')  # fmt: skip
    problem = build.only_problem()
    assert (problem.parameter, problem.kind) == ("model.embed_tokens.weight", "shape")
    assert problem.hint == "[24, 50], not [50, 24] or [4, 26, 16] (packed)"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.unlink(), id="gone"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b"\xff" * 100), id="no header"),
        pytest.param(lambda path: path.write_bytes(b"\x02" + b"\0" * 7 + b"[]"), id="no object"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-4096]), id="cut off"),
        pytest.param(
            lambda path: rename(path, '"shape":[3],"data_offsets"', '"shape":[x],"data_offsets"'), id="no JSON"
        ),
        pytest.param(
            lambda path: rename(path, '"shape":[3],"data_offsets"', '"shape":[3],"data_offsett"'), id="no offsets"
        ),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    specs = [
        ParameterSpec("slopes", (3,), "float32", FromValue(np.ones(3, np.float32))),
        ParameterSpec("big", (5000,), "float32", FromValue(np.ones(5000, np.float32))),
    ]
    build = make_build(tmp_path, "llama", 1)
    other = write_files(tmp_path / "other", [specs], build.checkpoint)
    assert other.check().passed
    damage(other.path(0))
    with pytest.raises(UserError, match=r"rank_0/params\.safetensors cannot be read") as caught:
        other.check()
    assert caught.value.fix == "copy the runstream again, or compile it again"
