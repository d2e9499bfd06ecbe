"""The command line in this process, and copies that a test may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from e2e_tools import CHECKPOINTS, Outcome
from fixture_types import CopyCheckpoint, CopyRunstream, Vamc

from vamc_runtime import cli


@pytest.fixture
def vamc(capfd: pytest.CaptureFixture[str]) -> Vamc:
    """`vamc("compile", config, ...)` in this process."""

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        status = cli.main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


@pytest.fixture
def copy_checkpoint(tmp_path: Path) -> CopyCheckpoint:
    """A demo checkpoint that a test may damage."""

    def copy(model: str) -> Path:
        target = tmp_path / "checkpoint"
        shutil.copytree(CHECKPOINTS / model, target)
        return target

    return copy


@pytest.fixture
def copy_runstream(tmp_path: Path) -> CopyRunstream:
    """A runstream that a test may damage."""

    def copy(runstream: Path) -> Path:
        target = tmp_path / "runstream"
        shutil.copytree(runstream, target, ignore=shutil.ignore_patterns("intermediates"))
        return target

    return copy
