"""What holds for every stage, whatever computes it."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_builds import NUM_TOKENS, SEQUENCE, assert_same_runs, steps_of
from torch import nn

from vamc_compiler.graph import PAGE_TOKENS
from vamc_compiler.verify.run import Array, Run, Stage
from vamc_compiler.verify.steps import odd_chunks, plan_steps
from vamc_compiler.verify.taps import TapPlan

OTHER_SEQUENCE = tuple((7 * token + 3) % 50 for token in SEQUENCE)


def run_other(stage: Stage, plan: TapPlan) -> Run:
    """Another sequence of the same length."""
    return stage.run(plan_steps(OTHER_SEQUENCE, [NUM_TOKENS], PAGE_TOKENS), plan.streams)


def equal(found: Array, expected: Array, tolerance: float) -> bool:
    return bool(np.abs(found - expected).max() <= tolerance * np.abs(expected).max())


def check_chunks(stage: Stage, plan: TapPlan, tolerance: float) -> None:
    """However a sequence is cut, the same comes out, with rows in order."""
    whole = stage.run(steps_of(), plan.taps)
    for chunks in (odd_chunks(NUM_TOKENS, 48), [30, *[1] * 7]):
        assert_same_runs(stage.run(plan_steps(SEQUENCE, chunks, PAGE_TOKENS), plan.taps), whole, tolerance)


def check_nothing_tapped(stage: Stage, plan: TapPlan) -> None:
    """Taps that were not asked for are not given, those that nobody knows are left out, and logits stay the same."""
    expected = stage.run(steps_of(), plan.taps)
    found = stage.run(steps_of())
    assert not found.taps
    assert equal(found.logits, expected.logits, 1e-6)
    assert list(stage.run(steps_of(), ["model.norm.in", "model.layers.9.input_layernorm.in"]).taps) == ["model.norm.in"]


def check_forcing(stage: Stage, plan: TapPlan, tolerance: float, chunk_tokens: int = NUM_TOKENS) -> None:
    """Fed another sequence's streams, every block computes that sequence's results; the embedding stays its own."""
    steps = steps_of(chunk_tokens)
    own, other = stage.run(steps, plan.streams), run_other(stage, plan)
    streams = {name: other.taps[name].whole() for name in plan.streams}
    found = stage.run(steps, plan.streams, streams)
    first, *rest = plan.streams
    assert equal(found.taps[first].whole(), own.taps[first].whole(), 0), "a tap gives what had been computed"
    for name in rest:
        assert equal(found.taps[name].whole(), streams[name], tolerance), name
    assert equal(found.logits, other.logits, tolerance)

    # One stream alone: everything before is the sequence's own, everything behind the other's.
    middle = len(plan.streams) // 2
    found = stage.run(steps, plan.streams, {plan.streams[middle]: streams[plan.streams[middle]]})
    for index, name in enumerate(plan.streams):
        expected = own if index <= middle else other
        assert equal(found.taps[name].whole(), expected.taps[name].whole(), tolerance), name
    assert equal(found.logits, other.logits, tolerance)

    assert equal(stage.run(steps).logits, own.logits, 1e-6), "a later run is left alone"
    with pytest.raises(AssertionError):
        assert equal(own.logits, other.logits, 0.1)  # or nothing above says anything


def is_offloaded(model: nn.Module) -> bool:
    """Whether no parameter has memory of its own, as it must be outside of a forward."""
    return all(parameter.is_meta for parameter in model.parameters())
