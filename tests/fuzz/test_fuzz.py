"""A seeded share of every target's cases."""

from __future__ import annotations

import pytest

from fuzz.harness import run_target
from fuzz.target import find_targets, load_target

_PLACES = find_targets()


@pytest.mark.parametrize("name", sorted(_PLACES))
def test_a_share_of_the_cases(name: str) -> None:
    target = load_target(_PLACES[name])
    result = run_target(_PLACES[name], target.num_quick)
    assert not result.faults, "\n".join(
        f"PYTHONPATH=tests python -m fuzz {name} --case {fault.case}\n{fault.problem}" for fault in result.faults
    )
    assert bool(result.num_accepted) == (target.outcomes != "refused"), "refused at the door, or let in unseen?"
    assert bool(result.num_refused) == (target.outcomes != "accepted"), "damaged too little, or too much?"
    assert result.num_accepted + result.num_refused == target.num_quick
