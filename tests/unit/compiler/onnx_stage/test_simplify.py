"""onnxsim folds what can be folded; signature and vamc nodes stay, or the build stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import onnxsim
import pytest

from vamc_compiler.onnx_stage.function_bodies import attach_function_bodies
from vamc_compiler.onnx_stage.simplify import count_vamc_nodes, simplify
from vamc_compiler.ops import DOMAIN, ONNX_OPSET_VERSION

TEXT = f"""
<ir_version: 10, opset_import: ["" : {ONNX_OPSET_VERSION}, "{DOMAIN}" : 1]>
graph (float[n, 4] x, int64[m] index, float16[6, 4] weight) => (float[m, 6] y) {{
  two = Constant <value_float: float = 2.0> ()
  three = Constant <value_float: float = 3.0> ()
  six = Mul(two, three)
  same = Identity(x)
  scaled = Mul(same, six)
  hidden = {DOMAIN}.Linear(scaled, weight)
  summed = {DOMAIN}.AllReduce(hidden)
  y = Gather <axis = 0> (summed, index)
}}
"""


@pytest.fixture
def model() -> onnx.ModelProto:
    return attach_function_bodies(onnx.parser.parse_model(TEXT))


def signature(model: onnx.ModelProto) -> list[bytes]:
    return [value.SerializeToString() for value in (*model.graph.input, *model.graph.output)]


def test_folding_keeps_what_must_stay(model: onnx.ModelProto) -> None:
    before = model.SerializeToString()
    simplified = simplify(model)
    assert model.SerializeToString() == before
    assert signature(simplified) == signature(model), "names, types and symbolic sizes"
    kinds = [node.op_type for node in simplified.graph.node if node.op_type != "Constant"]
    assert kinds == ["Mul", "Linear", "AllReduce", "Gather"]
    assert count_vamc_nodes(simplified) == 2
    assert [function.name for function in simplified.functions] == ["Linear", "AllReduce"]


def test_the_result_computes_the_same(model: onnx.ModelProto) -> None:
    rng = np.random.default_rng(0)
    feeds: dict[str, Any] = {
        "x": rng.standard_normal((5, 4)).astype(np.float32),
        "index": np.array([4, 0], np.int64),
        "weight": rng.standard_normal((6, 4)).astype(np.float16),
    }
    expected = (6 * feeds["x"] @ feeds["weight"].astype(np.float32).T)[[4, 0]]
    for each in (model, simplify(model)):
        session = onnxruntime.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, feeds)[0], expected, rtol=1e-5)


def rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "other"


def drop_input(model: onnx.ModelProto) -> None:
    del model.graph.input[2]


def rename_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "other"


def drop_collective(model: onnx.ModelProto) -> None:
    del model.graph.node[-2]


def double_linear(model: onnx.ModelProto) -> None:
    model.graph.node.append(next(node for node in model.graph.node if node.op_type == "Linear"))


def nothing(model: onnx.ModelProto) -> None:
    pass


@pytest.mark.parametrize(
    ("damage", "checked", "message"),
    [
        (rename_input, True, "another signature"),
        (drop_input, True, "another signature"),
        (rename_output, True, "another signature"),
        (nothing, False, "another signature"),
        (drop_collective, True, "added or removed nodes of the vamc domain"),
        (double_linear, True, "added or removed nodes of the vamc domain"),
    ],
)
def test_an_onnxsim_that_changes_too_much_stops_the_build(
    model: onnx.ModelProto,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[onnx.ModelProto], None],
    checked: bool,
    message: str,
) -> None:
    real = onnxsim.simplify

    def broken(given: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        simplified, _ = real(given)
        damage(simplified)
        return simplified, checked

    monkeypatch.setattr(onnxsim, "simplify", broken)
    with pytest.raises(RuntimeError, match=message):
        simplify(model)
