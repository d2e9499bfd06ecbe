"""Every vamc node of a model has a function of standard ops, once."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

from vamc_compiler.onnx_stage.function_bodies import attach_function_bodies
from vamc_compiler.ops import DOMAIN, ONNX_OPSET_VERSION, OPS

NUM_INPUTS = {
    "Embedding": 2,
    "Linear": 2,
    "QuantizedLinearPerChannel": 3,
    "QuantizedLinearPerChannelByTop": 4,
    "QuantizedLinearDynamic": 3,
    "QuantizedLinearDynamicByTop": 4,
    "RMSNorm": 2,
    "AddRMSNorm": 3,
    "SiluMul": 2,
    "PagedAttention": 7,
    "RowMax": 1,
    "AllReduce": 1,
    "AllReduceMax": 1,
    "AllGather": 1,
}
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "RMSNorm": {"epsilon": 1e-6},
    "AddRMSNorm": {"epsilon": 1e-6},
    "PagedAttention": {"scale": 0.5},
    "AllGather": {"num_ranks": 2},
}


def node(op: str, place: int, num_inputs: int | None = None) -> onnx.NodeProto:
    count = NUM_INPUTS[op] if num_inputs is None else num_inputs
    outputs = [f"{place}_y0", f"{place}_y1"] if op in ("PagedAttention", "AddRMSNorm") else [f"{place}_y0"]
    inputs = [f"{place}_x{i}" for i in range(count)]
    return onnx.helper.make_node(op, inputs, outputs, domain=DOMAIN, **ATTRIBUTES.get(op, {}))


def model_of(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    return onnx.helper.make_model(onnx.helper.make_graph(list(nodes), "g", [], []))


def test_every_op_gets_its_function_once() -> None:
    nodes = [node(op, place) for place, op in enumerate([*NUM_INPUTS, *NUM_INPUTS])]
    model = attach_function_bodies(model_of(*nodes, onnx.helper.make_node("Add", ["a", "b"], ["c"])))
    assert [function.name for function in model.functions] == list(NUM_INPUTS)
    assert set(NUM_INPUTS) == set(OPS)
    for function in model.functions:
        assert function.domain == DOMAIN
        assert [(o.domain, o.version) for o in function.opset_import] == [("", ONNX_OPSET_VERSION)]
        assert len(function.input) == NUM_INPUTS[function.name]
        assert {inner.domain for inner in function.node} == {""}, "standard ops only"


def test_attaching_again_changes_nothing() -> None:
    model = attach_function_bodies(model_of(node("Linear", 0)))
    before = model.SerializeToString()
    assert attach_function_bodies(model).SerializeToString() == before


def test_an_op_of_another_domain_is_left_alone() -> None:
    plain = onnx.helper.make_node("Linear", ["x", "w"], ["y"], domain="elsewhere")
    assert not attach_function_bodies(model_of(plain)).functions


@pytest.mark.parametrize(
    ("num_inputs", "options"),
    [(7, []), (8, ["slopes"]), (9, ["cosine", "sine"]), (10, ["slopes", "cosine", "sine"])],
)
def test_slopes_and_angles_are_inputs_when_the_node_has_them(num_inputs: int, options: list[str]) -> None:
    (function,) = attach_function_bodies(model_of(node("PagedAttention", 0, num_inputs))).functions
    assert list(function.input)[7:] == options
    assert list(function.attribute) == ["scale"]


def test_two_forms_of_an_op_do_not_share_a_function() -> None:
    with pytest.raises(AssertionError, match="PagedAttention takes one form per model"):
        attach_function_bodies(model_of(node("PagedAttention", 0, 7), node("PagedAttention", 1, 8)))
