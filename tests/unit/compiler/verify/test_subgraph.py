"""Subgraphs: the nodes that are needed, no others; weights and constants inside; onnxruntime runs them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from tiny_builds import SEQUENCE, TinyBuild, steps_of

from vamc_compiler.verify.graph_stage import STEP_INPUTS, open_session
from vamc_compiler.verify.merged_graph import merge_ranks, rank_name
from vamc_compiler.verify.recompile import run_compiled
from vamc_compiler.verify.run import Array
from vamc_compiler.verify.subgraph import feed_streams, make_model, nodes_between, outside_values

LAYER = "model.layers.0."


def small_graph() -> onnx.ModelProto:
    """a -> b -> c -> e, and d beside them: e = c + d; f reads e."""
    nodes = [
        onnx.helper.make_node("Neg", ["a"], ["b"]),
        onnx.helper.make_node("Mul", ["b", "w"], ["c"]),
        onnx.helper.make_node("Abs", ["a"], ["unused"]),
        onnx.helper.make_node("Neg", ["x"], ["d"]),
        onnx.helper.make_node("Add", ["c", "d"], ["e"]),
        onnx.helper.make_node("Relu", ["e"], ["f"]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [], [])
    return onnx.helper.make_model(graph)


@pytest.mark.parametrize(
    ("known", "target", "made"),
    [
        ([], "e", ["b", "c", "d", "e"]),
        (["c", "d"], "e", ["e"]),
        (["b"], "e", ["c", "d", "e"]),
        (["d"], "c", ["b", "c"]),
        (["e"], "e", ["b", "c", "d", "e"]),
        (["e"], "f", ["f"]),
    ],
)
def test_nodes_between(known: list[str], target: str, made: list[str]) -> None:
    """Several inputs; a target that is known is computed all the same; order as in the graph."""
    nodes = nodes_between(small_graph(), known, target)
    assert [node.output[0] for node in nodes] == made


def test_a_norm_behind_a_known_stream_reads_it() -> None:
    """What was added before the norm is known to be right, and belongs to another block."""
    nodes = [
        onnx.helper.make_node("Neg", ["a"], ["added"]),
        onnx.helper.make_node("AddRMSNorm", ["x", "added", "w"], ["stream", "rows"], domain="vamc"),
        onnx.helper.make_node("Relu", ["rows"], ["y"]),
    ]
    graph = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], []))
    known: dict[str, npt.NDArray[Any]] = {"stream": np.ones((2, 3), np.float32)}
    cut = nodes_between(feed_streams(graph, known, "y"), known, "y")
    assert [node.op_type for node in cut] == ["AddRMSNorm", "Relu"]
    read = outside_values(cut)
    assert read[0] == "stream" and read[2] == "w" and not known[read[1]].any()
    assert "stream" not in cut[0].output and cut[0].output[1] == "rows"
    assert nodes_between(feed_streams(graph, known, "stream"), known, "stream") == nodes[:2], "looked for, it is made"
    assert feed_streams(graph, {"rows": known["stream"]}, "y") == graph


def test_outside_values() -> None:
    graph = small_graph()
    assert outside_values(nodes_between(graph, ["b"], "e")) == ["b", "w", "x"]
    assert outside_values([onnx.helper.make_node("Clip", ["a", "", "most"], ["b"])]) == ["a", "most"]


def cut(build: TinyBuild, target_tap: str, known_taps: list[str]) -> tuple[onnx.ModelProto, dict[str, Array], Array]:
    """A subgraph of one rank, its inputs, and what the whole graph computes there."""
    merged = merge_ranks(build.models(), STEP_INPUTS)
    run = build.graph_stage().run(steps_of(), [target_tap, *known_taps])
    values = {rank_name(0, build.plan.taps[tap].value): run.taps[tap].whole() for tap in known_taps}
    target = rank_name(0, build.plan.taps[target_tap].value)
    nodes = nodes_between(merged, values, target)
    outside = outside_values(nodes)
    (parameters,) = build.rank_parameters()
    weights = {}
    for name, spec in parameters.specs.items():
        if (merged_name := rank_name(0, name)) in outside:
            weights[merged_name] = onnx.numpy_helper.from_array(parameters[name], merged_name)
            if spec.dtype == "bfloat16":
                weights[merged_name].data_type = onnx.TensorProto.BFLOAT16
    (step,) = steps_of()
    inputs = {name: values.get(name, step._asdict().get(name)) for name in outside if name not in weights}
    constants = {tensor.name for tensor in merged.graph.initializer}
    caches = np.zeros((3, 2, build.graphs[0].num_kv_slots, 16, build.source.config.head_dim), np.float16)
    given = {name: caches if value is None else value for name, value in inputs.items() if name not in constants}
    expected = run.taps[target_tap].whole()
    return make_model(merged, nodes, given, weights, target, expected.shape), given, expected


@pytest.mark.parametrize(
    ("name", "target", "known", "operations"),
    [
        ("one_rank", f"{LAYER}mlp.down_proj.in", ["gate", "up"], {"SiluMul"}),
        ("one_rank", f"{LAYER}self_attn.o_proj.out", ["attention"], {"Linear"}),
        ("bfloat16", f"{LAYER}mlp.down_proj.out", ["inner"], {"Linear"}),
        ("one_rank", f"{LAYER}self_attn.o_proj.in", ["q", "k", "v"], {"PagedAttention"}),
    ],
)
def test_runs_alone(
    name: str, target: str, known: list[str], operations: set[str], request: pytest.FixtureRequest
) -> None:
    build: TinyBuild = request.getfixturevalue(name)
    names = {
        "gate": "mlp.gate_proj.out",
        "up": "mlp.up_proj.out",
        "inner": "mlp.down_proj.in",
        "attention": "self_attn.o_proj.in",
        **{letter: f"self_attn.{letter}_proj.out" for letter in "qkv"},
    }
    model, inputs, expected = cut(build, target, [LAYER + names[key] for key in known])
    found = {node.op_type for node in model.graph.node if node.domain == "vamc"}
    assert found == operations
    assert {function.name for function in model.functions} == operations, "no other function is carried along"
    read = {name for node in model.graph.node for name in node.input if name}
    made = {name for node in model.graph.node for name in node.output}
    stored = {tensor.name for tensor in model.graph.initializer}
    assert stored <= read and {value.name for value in model.graph.input} == read - made - stored
    if operations == {"Linear"}:
        assert [tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 2] == [
            onnx.TensorProto.BFLOAT16 if name == "bfloat16" else onnx.TensorProto.FLOAT16
        ]
    result = open_session(onnx.load_from_string(model.SerializeToString()), 1).run(None, inputs)[0]
    np.testing.assert_allclose(result.reshape(expected.shape), expected, rtol=1e-5, atol=1e-6)


def test_inputs_have_the_sizes_of_their_arrays(one_rank: TinyBuild) -> None:
    model, _, _ = cut(one_rank, f"{LAYER}mlp.down_proj.in", [f"{LAYER}mlp.{name}_proj.out" for name in ("gate", "up")])
    shapes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input]
    assert shapes == [[len(SEQUENCE), 20]] * 2


@pytest.mark.parametrize(
    ("name", "target", "known"),
    [
        ("bfloat16", "mlp.down_proj.out", ["mlp.down_proj.in"]),
        ("one_rank", "mlp.down_proj.in", ["mlp.gate_proj.out", "mlp.up_proj.out"]),
        ("one_rank", "self_attn.o_proj.in", [f"self_attn.{letter}_proj.out" for letter in "qkv"]),
    ],
)
def test_compiled_again(name: str, target: str, known: list[str], request: pytest.FixtureRequest) -> None:
    """Through the importer and the kernels of this CPU: weights packed, none at all, a cache and constants."""
    build: TinyBuild = request.getfixturevalue(name)
    model, inputs, expected = cut(build, LAYER + target, [LAYER + tap for tap in known])
    found = run_compiled(model, inputs, {"mcpu": [], "bfloat16_prefill": False})
    assert found.dtype == np.float32
    # bfloat16 weights are multiplied with activations rounded to bfloat16 where the CPU has instructions for it.
    tolerance = 2e-2 if name == "bfloat16" else 1e-3
    assert np.abs(found.reshape(expected.shape) - expected).max() <= tolerance * np.abs(expected).max()
