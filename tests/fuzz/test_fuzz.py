"""A seeded share of every target's cases."""

from __future__ import annotations

import pytest

from fuzz.harness import run_target
from fuzz.target import find_targets, load_target

_PLACES = find_targets()


@pytest.mark.parametrize("name", sorted(_PLACES))
def test_a_share_of_the_cases(name: str) -> None:
    num_cases = load_target(_PLACES[name]).num_quick
    result = run_target(_PLACES[name], num_cases)
    assert not result.faults, "\n".join(
        f"PYTHONPATH=tests python -m fuzz {name} --case {fault.case}\n{fault.problem}" for fault in result.faults
    )
    assert result.num_accepted, "everything is refused at the door: nothing behind it is tried"
    assert result.num_refused, "nothing is refused: nothing was damaged"
    assert result.num_accepted + result.num_refused == num_cases
