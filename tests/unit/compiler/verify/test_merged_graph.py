"""Several ranks in one graph: names, shared inputs, collectives as plain ONNX."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tiny_builds import TinyBuild

from vamc_compiler.ops import DOMAIN
from vamc_compiler.verify.graph_stage import STEP_INPUTS
from vamc_compiler.verify.merged_graph import merge_ranks, rank_name


def test_names() -> None:
    assert rank_name(2, "x") == "rank2:x"
    assert rank_name(2, "") == "", "an input left out stays left out"


def collective(kind: str, constant: float) -> onnx.ModelProto:
    """x * w * constant through a collective."""
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["xw"], name="first"),
        helper.make_node("Mul", ["xw", "c"], ["part"]),
        helper.make_node(kind, ["part"], ["y"], domain=DOMAIN),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("x", "w")]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "m"])]
    initializer = [helper.make_tensor("c", TensorProto.FLOAT, [1], [constant])]
    graph = helper.make_graph(nodes, "rank", inputs, outputs, initializer)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("AllReduce", [[-9, 18]]), ("AllReduceMax", [[2, 20]]), ("AllGather", [[1, -2, 2, 20, -12, 0]])],
)
def test_collectives(kind: str, expected: list[list[float]]) -> None:
    """Each rank with a weight and a constant of its own; the result under every rank's name."""
    merged = merge_ranks([collective(kind, constant) for constant in (1, 2, 3)], ["x"])
    merged.ir_version = 10
    onnx.checker.check_model(merged, full_check=False)
    assert [value.name for value in merged.graph.input] == ["x", "rank0:w", "rank1:w", "rank2:w"]
    assert [tensor.name for tensor in merged.graph.initializer] == ["rank0:c", "rank1:c", "rank2:c"]
    assert [value.name for value in merged.graph.output] == ["rank0:y", "rank1:y", "rank2:y"]
    session = onnxruntime.InferenceSession(merged.SerializeToString(), providers=["CPUExecutionProvider"])
    weights = {f"rank{rank}:w": np.array([row], np.float32) for rank, row in enumerate([[1, -1], [1, 5], [-4, 0]])}
    results = session.run(None, {"x": np.array([[1, 2]], np.float32)} | weights)
    for result in results:
        assert result.tolist() == expected


def test_one_rank_is_the_graph_itself(one_rank: TinyBuild) -> None:
    (model,) = one_rank.models()
    merged = merge_ranks([model], STEP_INPUTS)
    assert [node.op_type for node in merged.graph.node] == [node.op_type for node in model.graph.node]
    names = [value.name for value in merged.graph.input]
    assert names[:5] == list(STEP_INPUTS)
    assert names[5:] == [f"rank0:{value.name}" for value in list(model.graph.input)[5:]]


def test_nothing_of_a_rank_reaches_another_but_through_collectives(four_ranks: TinyBuild) -> None:
    merged = merge_ranks(four_ranks.models(), STEP_INPUTS)
    made: set[str] = set()
    for node in merged.graph.node:
        ranks = {name.partition(":")[0] for name in (*node.input, *node.output) if name.startswith("rank")}
        if len(ranks) > 1:
            assert node.op_type in ("Sum", "Max", "Concat", "Identity"), node
        assert not made & set(node.output), "every value is made once"
        made |= set(node.output)
    collectives = [node for node in merged.graph.node if node.op_type in ("Sum", "Max")]
    assert {len(node.input) for node in collectives} == {4}
    assert not [node for node in merged.graph.node if node.op_type in ("AllReduce", "AllReduceMax", "AllGather")]


def test_ranks_with_other_nodes_are_refused(one_rank: TinyBuild, four_ranks: TinyBuild) -> None:
    with pytest.raises(AssertionError, match="the same nodes"):
        merge_ranks([one_rank.models()[0], four_ranks.models()[0]], STEP_INPUTS)
