"""`vamc::Embedding`: rows of a 16-bit table as float32, y[n, w] = table[ids[n], w]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx
import torch

from vamc_compiler.ops.definition import VamcOp, emit_node, exporting

if TYPE_CHECKING:
    from vamc_compiler.kernels.emitter import Emitter


def embedding(ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Look up ids int32 [n] in table float16|bfloat16 [v, w]."""
    if exporting():
        return emit_node("Embedding", (ids, table), [(torch.float32, (ids.shape[0], table.shape[1]))])[0]
    return torch.index_select(table, 0, ids).to(torch.float32)


def _function_body(node: onnx.NodeProto) -> str:
    return """
    Embedding (ids, table) => (y) {
      rows = Gather <axis = 0> (table, ids)
      y = Cast <to = 1> (rows)
    }"""


def _lower(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], kernels: Emitter) -> Any:
    return kernels.embedding(builder, *inputs)


EMBEDDING = VamcOp("Embedding", _function_body, _lower)
