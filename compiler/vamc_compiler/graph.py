"""The graph half: every rank traced and simplified, then one step function for all of them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass

import onnx

from vamc_compiler.model.own_code import own_code_errors
from vamc_compiler.model.registry import ModelSource
from vamc_compiler.onnx_stage.function_bodies import attach_function_bodies
from vamc_compiler.onnx_stage.simplify import simplify
from vamc_compiler.parameters import ParameterSpec
from vamc_compiler.precision import ModelPrecision
from vamc_compiler.trace.export import trace_rank
from vamc_compiler.workers import run_tasks
from vamc_runtime.errors import UserError

PAGE_TOKENS = 16
"""Tokens per cache page: small enough to waste little, large enough for streams of keys (16 * 128 halves = 4 KiB)."""
PARALLEL_LAYERS = 48
"""Layers over all ranks from which a process per rank pays: starting one costs about as much as tracing 24 layers."""


@dataclass(frozen=True)
class RankGraph:
    """One rank's graph as it comes from a worker process."""

    rank: int
    traced: bytes
    """The exported ONNX model with function bodies, serialised."""
    simplified: bytes
    """The simplified ONNX model, serialised."""
    parameters: tuple[ParameterSpec, ...]
    num_kv_slots: int

    def model(self) -> onnx.ModelProto:
        """The simplified model; weights are graph inputs."""
        return parse_model(self.simplified)


def parse_model(serialised: bytes) -> onnx.ModelProto:
    """An ONNX model from its bytes."""
    model = onnx.ModelProto()
    model.ParseFromString(serialised)
    return model


def make_rank_graph(source: ModelSource, num_ranks: int, precision: ModelPrecision, rank: int) -> RankGraph:
    """Trace, export and simplify one rank.

    Raises:
        UserError: a modeling file that the checkpoint brought cannot be traced.
    """
    guard = own_code_errors(source.file, "cannot be traced") if source.is_own_code else contextlib.nullcontext()
    with guard:
        traced = trace_rank(source, rank=rank, num_ranks=num_ranks, precision=precision, page_tokens=PAGE_TOKENS)
    model = attach_function_bodies(traced.model)
    simplified = simplify(model)
    return RankGraph(
        rank,
        model.SerializeToString(deterministic=True),
        simplified.SerializeToString(deterministic=True),
        traced.parameters,
        traced.num_kv_slots,
    )


def make_rank_graphs(
    source: ModelSource,
    num_ranks: int,
    precision: ModelPrecision,
    *,
    num_workers: int,
    on_progress: Callable[[int, int], None],
) -> list[RankGraph]:
    """Every rank's graph, in rank order.

    Raises:
        UserError: the ranks' graphs differ, so that one library could not serve them all.
    """
    graphs: list[RankGraph] = []

    def keep(graph: RankGraph) -> None:
        graphs.append(graph)
        on_progress(len(graphs), num_ranks)

    make = functools.partial(make_rank_graph, source, num_ranks, precision)
    large = num_ranks * source.config.num_hidden_layers >= PARALLEL_LAYERS
    run_tasks(make, range(num_ranks), num_workers if large else 1, keep)
    graphs.sort(key=lambda graph: graph.rank)
    for graph in graphs[1:]:
        if graph.simplified != graphs[0].simplified:
            raise UserError(
                f"rank {graph.rank}'s graph differs from rank 0's (modeling file {source.file})",
                expected="the same graph on every rank, so that one library serves all",
                fix="keep what differs between ranks in parameters (parallel_layers.add_constant)",
            )
    return graphs
