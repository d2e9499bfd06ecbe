"""`vamc::RowMax`: y[n, 1] = max |x[n, w]|, what the quantization of a row divides by.

A rank that holds a part of a row needs the maximum of the whole one (`AllReduceMax`): with scales of their own, ranks
would round their parts otherwise than one rank rounds the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx
import torch

from vamc_compiler.ops.definition import VamcOp, emit_node, exporting

if TYPE_CHECKING:
    from vamc_compiler.kernels.emitter import Emitter


def row_max(x: torch.Tensor) -> torch.Tensor:
    """The largest magnitude float32 [n, 1] in each row of x float32 [n, w]."""
    if exporting():
        return emit_node("RowMax", (x,), [(x.dtype, (x.shape[0], 1))])[0]
    return x.abs().amax(-1, keepdim=True)


def _function_body(node: onnx.NodeProto) -> str:
    return """
    RowMax (x) => (y) {
      last = Constant <value_ints = [-1]> ()
      magnitude = Abs(x)
      y = ReduceMax <keepdims = 1> (magnitude, last)
    }"""


def _lower(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], kernels: Emitter) -> Any:
    return kernels.row_max(builder, inputs[0])


ROW_MAX = VamcOp("RowMax", _function_body, _lower)
