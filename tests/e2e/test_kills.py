"""A few kills of running processes at random moments: nothing is left, and ranks that were killed are no bug of ours.

`python -m kills` does many.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fixture_types import CompileDemo
from kills import kill_once, kinds_of_running

NAMES = ("program of one rank", "program of two ranks", "hydra proxy", "rank 1", "user's hydra proxy")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left(name: str, compile_demo: CompileDemo, demo_runstream: Path) -> None:
    two = compile_demo("baichuan2-13b-mini", "int8", 2)
    kind = next(kind for kind in kinds_of_running(demo_runstream, two) if kind.name == name)
    outcome = kill_once(kind, random.Random(name))
    assert outcome is not None, "there was nothing to kill"
    assert not outcome.fault(kind)
    if name in ("hydra proxy", "rank 1"):
        assert outcome.status == 2 and "vamc: error:" in outcome.errors
