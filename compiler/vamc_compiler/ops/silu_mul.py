"""`vamc::SiluMul`: y[n, w] = gate * sigmoid(gate) * up, the middle of a gated feed-forward layer (arXiv 2002.05202)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx
import torch

from vamc_compiler.ops.definition import VamcOp, emit_node, exporting

if TYPE_CHECKING:
    from vamc_compiler.kernels.emitter import Emitter


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Gate up with gate, both float32 [n, w]."""
    if exporting():
        return emit_node("SiluMul", (gate, up), [(gate.dtype, gate.shape)])[0]
    return gate * torch.sigmoid(gate) * up


def _function_body(node: onnx.NodeProto) -> str:
    return """
    SiluMul (gate, up) => (y) {
      opening = Sigmoid(gate)
      gated = Mul(gate, opening)
      y = Mul(gated, up)
    }"""


def _lower(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], kernels: Emitter) -> Any:
    from vamc_compiler.kernels.activations import SiluMul

    (rows,) = kernels.rows(builder, SiluMul(), inputs, kernels.form_for(attributes))
    return rows


SILU_MUL = VamcOp("SiluMul", _function_body, _lower, rows_output=0)
