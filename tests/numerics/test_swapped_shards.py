"""A rank that finds another rank's weights refuses to run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fixture_types import CompileDemo

from vamc_runtime import LLM, UserError


def test_swapped_shards_are_refused(compile_demo: CompileDemo, tmp_path: Path) -> None:
    runstream = tmp_path / "swapped"
    shutil.copytree(compile_demo("baichuan2-13b-mini", "int8", 2), runstream)
    (runstream / "rank_0").rename(runstream / "rank_x")
    (runstream / "rank_1").rename(runstream / "rank_0")
    (runstream / "rank_x").rename(runstream / "rank_1")
    with pytest.raises(UserError, match="holds the weights of rank"), LLM(runstream):
        pytest.fail("ranks must not run each other's weights")
