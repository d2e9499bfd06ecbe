"""`vamc::RMSNorm`: y[n, w] = x / sqrt(mean(x^2) + epsilon) * weight[w], row by row (arXiv 1910.07467)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx
import torch

from vamc_compiler.ops.definition import VamcOp, emit_node, exporting

if TYPE_CHECKING:
    from vamc_compiler.kernels.emitter import Emitter


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Normalise x float32 [n, w] with weight float32 [w]."""
    if exporting():
        return emit_node("RMSNorm", (x, weight), [(x.dtype, x.shape)], {"epsilon": epsilon})[0]
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * weight


NORM_BODY = """
      two = Constant <value_float = 2.0> ()
      last = Constant <value_ints = [-1]> ()
      squares = Pow(stream, two)
      mean = ReduceMean <keepdims = 1> (squares, last)
      epsilon_value = Constant <value_float: float = @epsilon> ()
      padded = Add(mean, epsilon_value)
      root = Sqrt(padded)
      scaled = Div(stream, root)
      y = Mul(scaled, weight)"""
"""What `RMSNorm` and `AddRMSNorm` do to `stream`."""


def _function_body(node: onnx.NodeProto) -> str:
    return f"""
    RMSNorm <epsilon> (x, weight) => (y) {{
      stream = Identity(x){NORM_BODY}
    }}"""


def _lower(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], kernels: Emitter) -> Any:
    from vamc_compiler.kernels.activations import RMSNorm

    source = RMSNorm(attributes["epsilon"], residual=False)
    (rows,) = kernels.rows(builder, source, inputs, kernels.form_for(attributes))
    return rows


RMS_NORM = VamcOp("RMSNorm", _function_body, _lower, rows_output=0)
