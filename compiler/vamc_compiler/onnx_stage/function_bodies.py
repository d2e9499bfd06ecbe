"""Give every `vamc` node its meaning in standard ops, so that onnxruntime runs the file as it is.

An op with optional inputs has a function for each number of inputs that occurs. The first has the op's plain name, the
others are overloads of it (ONNX IR version 10), by which the nodes name them.
"""

from __future__ import annotations

import onnx

from vamc_compiler.ops import DOMAIN, OPS


def attach_function_bodies(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add one ONNX function for each form of a `vamc` op in the graph; changes and returns `model`."""
    del model.functions[:]
    overloads: dict[str, dict[int, str]] = {}
    for node in model.graph.node:
        if node.domain != DOMAIN:
            continue
        forms = overloads.setdefault(node.op_type, {})
        count = len(node.input)
        if count not in forms:
            forms[count] = f"{count}_inputs" if forms else ""
            function = OPS[node.op_type].function(node)
            function.overload = forms[count]
            model.functions.append(function)
        node.overload = forms[count]
    return model
