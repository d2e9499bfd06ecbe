"""Graphs in onnxruntime compute what the modules compute, on any number of ranks, in segments of any size."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from stage_checks import check_chunks, check_forcing, check_nothing_tapped
from tiny_builds import TinyBuild, assert_same_runs, build_of, steps_of

from vamc_compiler.verify.subject import Subject

BUILDS = ("one_rank", "two_ranks", "four_ranks", "bfloat16")
RANKS_TOLERANCE = 1e-3
"""Sums in another order move keys and values by a step of their float16 cache."""


@pytest.fixture(params=BUILDS)
def build(request: pytest.FixtureRequest) -> TinyBuild:
    found: TinyBuild = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("traced", [True, False])
def test_as_the_modules(build: TinyBuild, traced: bool) -> None:
    plan = build.plan
    expected = build.modeling_stage().run(steps_of(20), plan.taps)
    assert set(expected.taps) == set(plan.taps)
    found = build.graph_stage(traced=traced).run(steps_of(20), plan.taps)
    assert found.logit_columns == expected.logit_columns == plan.logit_columns
    assert_same_runs(found, expected, RANKS_TOLERANCE)
    for name, value in found.taps.items():
        assert len(value.parts) == (1 if plan.taps[name].columns is None else build.num_ranks)
        assert [part.shape for part in value.parts] == [part.shape for part in expected.taps[name].parts], name


def test_int8_activations(compiled_int8: Subject) -> None:
    build = build_of(compiled_int8)
    expected = build.modeling_stage().run(steps_of(), build.plan.taps)
    assert_same_runs(build.graph_stage().run(steps_of(), build.plan.taps), expected, 1e-5)


def test_two_ranks_as_one(one_rank: TinyBuild, two_ranks: TinyBuild) -> None:
    """They have the same checkpoint."""
    expected = one_rank.graph_stage().run(steps_of(), one_rank.plan.taps)
    found = two_ranks.graph_stage().run(steps_of(), two_ranks.plan.taps)
    assert_same_runs(found, expected, RANKS_TOLERANCE)


def test_chunks(build: TinyBuild) -> None:
    check_chunks(build.graph_stage(), build.plan, RANKS_TOLERANCE)


def test_nothing_tapped(two_ranks: TinyBuild) -> None:
    check_nothing_tapped(two_ranks.graph_stage(), two_ranks.plan)


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("chunk_tokens", [37, 10])
def test_forced_streams(build: TinyBuild, chunk_tokens: int, traced: bool) -> None:
    check_forcing(build.graph_stage(traced=traced), build.plan, RANKS_TOLERANCE, chunk_tokens)


@pytest.mark.parametrize("segment_bytes", [0, 5000, 12000])
def test_segments_of_any_size(build: TinyBuild, segment_bytes: int) -> None:
    """A weight at a time, some at a time, all at once; constants of the graph reach the segments that read them."""
    assert all(graph.model().graph.initializer for graph in build.graphs)
    expected = build.graph_stage().run(steps_of(20), build.plan.taps)
    found = build.graph_stage(segment_bytes=segment_bytes).run(steps_of(20), build.plan.taps)
    assert_same_runs(found, expected, 1e-6)


@pytest.mark.parametrize("segment_bytes", [0, 12000])
def test_segments_hold_what_they_may(two_ranks: TinyBuild, segment_bytes: int) -> None:
    stage = two_ranks.graph_stage(segment_bytes=segment_bytes)
    segments = [segment for segment, _ in stage._segments(stage._nodes({}), {"rank0:logits"})]
    parameters = two_ranks.rank_parameters()
    most_for_one_node = 50 * 24 * 4  # the embedding
    for segment in segments:
        size = sum(4 * parameters[rank][name].size for rank, name in segment.weights)
        assert size <= max(segment_bytes, most_for_one_node)
    assert [node for segment in segments for node in segment.nodes] == list(stage._merged.graph.node)
    assert len(segments) > (20 if segment_bytes == 0 else 2)


def test_values_are_dropped_after_their_last_use(two_ranks: TinyBuild) -> None:
    stage = two_ranks.graph_stage(segment_bytes=0)
    wanted = {"rank0:logits", stage._plan.taps["model.norm.in"].value}
    alive: set[str] = set()
    most = 0
    for segment, last_use in stage._segments(stage._nodes({}), wanted):
        missing = {name for name in segment.inputs if name.startswith("rank") and ":kv_cache_" not in name} - alive
        assert not missing, "nothing is dropped before its last use"
        alive = (alive | set(segment.outputs)) - last_use
        most = max(most, len(alive))
    assert most < 30, "what nobody reads any more is dropped"


def test_a_fault_in_one_rank_shows(two_ranks: TinyBuild) -> None:
    """Ranks are computed with their own weights: another constant on rank 1 changes its part first."""
    models = two_ranks.models()
    node = next(n for n in models[1].graph.node if n.op_type == "SiluMul")
    node.input[:] = [node.input[1], node.input[0]]
    name = "model.layers.0.mlp.down_proj.in"
    expected = two_ranks.graph_stage().run(steps_of(), [name]).taps[name]
    found = two_ranks.graph_stage(models=models).run(steps_of(), [name]).taps[name]
    assert np.array_equal(found.parts[0], expected.parts[0])
    assert np.abs(found.parts[1] - expected.parts[1]).max() > 0.1


def test_the_cache_starts_empty(one_rank: TinyBuild) -> None:
    stage = one_rank.graph_stage()
    first = stage.run(steps_of(10)).logits
    assert np.array_equal(stage.run(steps_of(10)).logits, first)


def test_the_type_of_the_cache(one_rank: TinyBuild) -> None:
    """float16, as it is compiled."""
    stage = one_rank.graph_stage()
    caches = stage._empty_caches(steps_of())
    assert {array.dtype for array in caches.values()} == {np.dtype(np.float16)}
    assert {array.shape for array in caches.values()} == {(3, 2, 2, 16, 8)}
    assert {stage._types[name] for name in caches} == {onnx.TensorProto.FLOAT16}
