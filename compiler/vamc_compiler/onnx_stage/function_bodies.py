"""Give every `vamc` node its meaning in standard ops, so that onnxruntime runs the file as it is."""

from __future__ import annotations

import onnx

from vamc_compiler.ops import DOMAIN, OPS


def attach_function_bodies(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add one ONNX function for each `vamc` op in the graph; changes and returns `model`."""
    del model.functions[:]
    added: dict[str, int] = {}
    for node in model.graph.node:
        if node.domain != DOMAIN:
            continue
        if node.op_type not in added:
            model.functions.append(OPS[node.op_type].function(node))
            added[node.op_type] = len(node.input)
        assert added[node.op_type] == len(node.input), f"{node.op_type} takes one form per model"
    return model
