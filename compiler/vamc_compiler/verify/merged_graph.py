"""All ranks in one ONNX graph: each rank's nodes beside one another, collectives as plain sums over the ranks."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from vamc_compiler.ops import DOMAIN

_COLLECTIVES = {"AllReduce": "Sum", "AllReduceMax": "Max", "AllGather": "Concat"}


def rank_name(rank: int, name: str) -> str:
    """A rank's value in the merged graph; empty (an input left out) stays empty."""
    return f"rank{rank}:{name}" if name else ""


def merge_ranks(models: Sequence[onnx.ModelProto], shared_inputs: Sequence[str]) -> onnx.ModelProto:
    """One graph that computes what the ranks compute together.

    Args:
        models: every rank's graph, with the same nodes; weights and caches are inputs.
        shared_inputs: inputs that are the same for all ranks and keep their names.

    Returns:
        A model whose other values are named by `rank_name`; functions are rank 0's.
    """
    assert len({len(model.graph.node) for model in models}) == 1, "every rank's graph has the same nodes"
    merged = onnx.ModelProto()
    merged.CopyFrom(models[0])
    del merged.graph.node[:], merged.graph.input[:], merged.graph.output[:], merged.graph.value_info[:]
    del merged.graph.initializer[:]
    shared = set(shared_inputs)

    def named(rank: int, name: str) -> str:
        return name if name in shared else rank_name(rank, name)

    for rank, model in enumerate(models):
        for kind in ("input", "output", "initializer"):
            for value in getattr(model.graph, kind):
                if rank and value.name in shared:
                    continue
                added = getattr(merged.graph, kind).add()
                added.CopyFrom(value)
                added.name = named(rank, value.name)
    for nodes in zip(*(model.graph.node for model in models), strict=True):
        if nodes[0].domain == DOMAIN and nodes[0].op_type in _COLLECTIVES:
            merged.graph.node.extend(_collective(nodes))
            continue
        for rank, node in enumerate(nodes):
            added = merged.graph.node.add()
            added.CopyFrom(node)
            added.name = rank_name(rank, node.name)
            added.input[:] = [named(rank, name) for name in node.input]
            added.output[:] = [named(rank, name) for name in node.output]
    return merged


def _collective(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """One node over the ranks' inputs, and its result under every rank's name."""
    kind = _COLLECTIVES[nodes[0].op_type]
    inputs = [rank_name(rank, node.input[0]) for rank, node in enumerate(nodes)]
    outputs = [rank_name(rank, node.output[0]) for rank, node in enumerate(nodes)]
    result = [onnx.helper.make_node(kind, inputs, outputs[:1])]
    if kind == "Concat":
        result[0].attribute.append(onnx.helper.make_attribute("axis", -1))
    result += [onnx.helper.make_node("Identity", outputs[:1], [name]) for name in outputs[1:]]
    return result
