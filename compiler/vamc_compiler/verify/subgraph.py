"""Cutting the nodes between tapped values out of a graph, as a model of its own with its weights inside."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx

from vamc_compiler.ops import DOMAIN
from vamc_compiler.verify.run import Array


def feed_streams(model: onnx.ModelProto, known: dict[str, Array], target: str) -> onnx.ModelProto:
    """Let every AddRMSNorm whose sum is known read that sum, plus nothing, as in a stage that is fed its streams.

    What was added before it then belongs to no subgraph behind it.

    Args:
        model: the whole graph.
        known: values by name; gets the zeros that are added.
        target: the value that is looked for; the node that makes it as a sum stays as it is.

    Returns:
        Another graph.
    """
    fed = onnx.ModelProto()
    fed.CopyFrom(model)
    for node in fed.graph.node:
        stream = node.output[0] if node.op_type == "AddRMSNorm" else ""
        if stream in known and stream != target:
            nothing = f"{stream}:nothing_added"
            known[nothing] = np.zeros_like(known[stream])
            node.input[:2] = [stream, nothing]
            node.output[0] = f"{stream}:again"
    return fed


def nodes_between(model: onnx.ModelProto, known: Collection[str], target: str) -> list[onnx.NodeProto]:
    """The nodes that compute `target` from known values, in order; `target` itself is computed even if known."""
    producers = {name: index for index, node in enumerate(model.graph.node) for name in node.output}
    needed: set[int] = set()
    waiting = [producers[target]]
    while waiting:
        index = waiting.pop()
        if index in needed:
            continue
        needed.add(index)
        inputs = model.graph.node[index].input
        waiting += [producers[name] for name in inputs if name in producers and name not in known]
    return [model.graph.node[index] for index in sorted(needed)]


def outside_values(nodes: Collection[onnx.NodeProto]) -> list[str]:
    """What the nodes read and do not make, in order of first use."""
    made = {name for node in nodes for name in node.output}
    return list(dict.fromkeys(name for node in nodes for name in node.input if name and name not in made))


def make_model(
    whole: onnx.ModelProto,
    nodes: Collection[onnx.NodeProto],
    inputs: Mapping[str, Array],
    weights: Mapping[str, onnx.TensorProto],
    target: str,
    shape: tuple[int, ...],
) -> onnx.ModelProto:
    """A model of some nodes: `inputs` typed and sized as the given arrays, weights inside, a result of `shape`."""
    graph = onnx.GraphProto(name="subgraph")
    graph.node.extend(nodes)
    for name, array in inputs.items():
        element = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        graph.input.append(onnx.helper.make_tensor_value_info(name, element, array.shape))
    constants = {tensor.name: tensor for tensor in whole.graph.initializer}
    for name in outside_values(nodes):
        if name in weights:
            graph.initializer.append(weights[name])
        elif name in constants:
            graph.initializer.append(constants[name])
    graph.output.append(onnx.helper.make_tensor_value_info(target, onnx.TensorProto.FLOAT, shape))
    model = onnx.ModelProto(ir_version=whole.ir_version, graph=graph)
    model.opset_import.extend(whole.opset_import)
    used = {node.op_type for node in nodes if node.domain == DOMAIN}
    model.functions.extend(function for function in whole.functions if function.name in used)
    return model
