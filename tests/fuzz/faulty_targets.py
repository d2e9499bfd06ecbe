"""Targets with known faults, to see that the harness finds each."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from fuzz.target import Target
from vamc_runtime.errors import UserError


def _nothing(folder: Path) -> Path:
    return folder


def _raises(context: Path, rng: random.Random) -> None:
    if rng.random() < 0.5:
        raise UserError("refused")
    raise ValueError("boom")


def _crashes(context: Path, rng: random.Random) -> None:
    if rng.random() < 0.5:
        os.kill(os.getpid(), signal.SIGSEGV)


def _hangs(context: Path, rng: random.Random) -> None:
    time.sleep(60)


def _grows(context: Path, rng: random.Random) -> None:
    grown = b"x" * (200 << 20)
    time.sleep(5)
    del grown


def _unprepared(folder: Path) -> Path:
    raise ValueError("nothing to share")


def _accepts(context: Path, rng: random.Random) -> None:
    assert (context / "..").exists()


RAISES = Target(name="raises", num_cases=10, num_quick=10, prepare=_nothing, run=_raises)
CRASHES = Target(name="crashes", num_cases=6, num_quick=6, prepare=_nothing, run=_crashes)
HANGS = Target(name="hangs", num_cases=1, num_quick=1, prepare=_nothing, run=_hangs, max_seconds=0.5)
GROWS = Target(name="grows", num_cases=1, num_quick=1, prepare=_nothing, run=_grows, max_growth_bytes=100 << 20)
UNPREPARED = Target(name="unprepared", num_cases=3, num_quick=3, prepare=_unprepared, run=_accepts)
ACCEPTS = Target(name="accepts", num_cases=7, num_quick=7, prepare=_nothing, run=_accepts)
