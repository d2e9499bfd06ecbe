"""Tracing one rank under FakeTensorMode and exporting it to ONNX, weights as graph inputs.

By torch's dynamo exporter, in the opset that TVM reads, without its optimiser. Weights become inputs so that onnxsim
and TVM never look for their data; `onnx_stage.external_weights` turns them back into initialisers.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import onnx_ir
import torch

from vamc_compiler.model.registry import ModelSource
from vamc_compiler.ops import ONNX_OPSET_VERSION
from vamc_compiler.parameters import ParameterSpec
from vamc_compiler.precision import ModelPrecision
from vamc_compiler.torch_internals import FakeTensorMode
from vamc_compiler.trace.rank_module import build_rank, list_parameters

KV_DTYPE = torch.float16
STEP_INPUTS = ("input_ids", "position_ids", "seq_ids", "page_table", "logits_index")


@dataclass(frozen=True)
class TracedRank:
    """What the trace of one rank yields."""

    model: onnx.ModelProto
    parameters: tuple[ParameterSpec, ...]
    num_kv_slots: int
    """Key/value heads per cache page of this rank."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes about packages that do not matter here off the user's screen."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def kv_input_name(layer: int) -> str:
    """Graph input that holds the cache pages of a layer."""
    return f"kv_cache_{layer}"


def trace_rank(
    source: ModelSource, *, rank: int, num_ranks: int, precision: ModelPrecision, page_tokens: int
) -> TracedRank:
    """Trace one rank; no weight data is read and none is allocated."""
    config = source.config.for_rank(rank, num_ranks)
    num_layers = config.num_hidden_layers
    with _quiet():
        with FakeTensorMode():
            model = build_rank(source, config, precision)
            slots = model.num_kv_slots
            assert isinstance(slots, int), "CausalLM states its cache width"
            parameters = list_parameters(model)
            # Sizes of the example are distinct primes, so that no two symbolic sizes are taken for the same.
            tokens = torch.zeros(7, dtype=torch.int32)
            kv_shape = (5, 2, slots, page_tokens, config.head_dim)
            example = (
                *(tokens, tokens.clone(), tokens.clone()),
                torch.zeros(3, 11, dtype=torch.int32),
                torch.zeros(2, dtype=torch.int32),
                [torch.zeros(kv_shape, dtype=KV_DTYPE) for _ in range(num_layers)],
            )
        n, b, p, m, pages = (torch.export.Dim(name, min=1, max=1 << 30) for name in ("n", "b", "p", "m", "cache_pages"))
        program = torch.onnx.export(
            model,
            example,
            dynamo=True,
            opset_version=ONNX_OPSET_VERSION,
            optimize=False,
            verbose=False,
            input_names=[*STEP_INPUTS, *map(kv_input_name, range(num_layers))],
            output_names=["logits", *(f"kv_updated_{layer}" for layer in range(num_layers))],
            dynamic_shapes=({0: n}, {0: n}, {0: n}, {0: b, 1: p}, {0: m}, [{0: pages}] * num_layers),
        )
    assert program is not None, "torch.onnx.export returns a program under dynamo"
    graph = program.model.graph
    for spec in parameters:
        value = graph.initializers.pop(spec.name)
        value.const_value = None
        graph.inputs.append(value)
    return TracedRank(onnx_ir.to_proto(program.model), tuple(parameters), slots)
