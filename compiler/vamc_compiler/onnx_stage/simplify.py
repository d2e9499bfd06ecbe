"""onnxsim: fold shape arithmetic and constants out of the exported graph."""

from __future__ import annotations

import onnx
import onnxsim

from vamc_compiler.ops import DOMAIN


def count_vamc_nodes(model: onnx.ModelProto) -> int:
    """How many nodes the compiler lowers itself."""
    return sum(node.domain == DOMAIN for node in model.graph.node)


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Simplify a graph whose weights are inputs; the signature and every `vamc` node stay.

    Raises:
        RuntimeError: onnxsim changed what it must keep (our bug or its own, never the user's).
    """
    simplified: onnx.ModelProto
    simplified, checked = onnxsim.simplify(model)
    before = [value.name for value in model.graph.input], [value.name for value in model.graph.output]
    after = [value.name for value in simplified.graph.input], [value.name for value in simplified.graph.output]
    if not checked or before != after:
        raise RuntimeError("onnxsim returned a graph with another signature")
    if count_vamc_nodes(model) != count_vamc_nodes(simplified):
        raise RuntimeError("onnxsim added or removed nodes of the vamc domain")
    # onnxsim's shape inference renames symbolic sizes (n becomes unk__0): the signature stays as it was traced.
    del simplified.graph.input[:], simplified.graph.output[:], simplified.graph.value_info[:]
    simplified.graph.input.extend(model.graph.input)
    simplified.graph.output.extend(model.graph.output)
    return simplified
