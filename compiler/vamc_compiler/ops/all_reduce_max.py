"""`vamc::AllReduceMax`: the largest x over all ranks, for what ranks quantize together (`RowMax`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx
import torch

from vamc_compiler.ops.collectives import exchange
from vamc_compiler.ops.definition import VamcOp, emit_node, exporting

if TYPE_CHECKING:
    from vamc_compiler.kernels.emitter import Emitter

PACKED_FUNCTION = "vamc.all_reduce_max"


def all_reduce_max(x: torch.Tensor) -> torch.Tensor:
    """The largest of every element of x float32 [n, 1] over the ranks; the same on every rank."""
    if exporting():
        return emit_node("AllReduceMax", (x,), [(x.dtype, x.shape)])[0]
    return torch.stack(exchange(x)).amax(0)


def _function_body(node: onnx.NodeProto) -> str:
    # One rank's file on its own knows only its own maximum, as in AllReduce.
    return """
    AllReduceMax (x) => (y) {
      y = Identity(x)
    }"""


def _lower(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], kernels: Emitter) -> Any:
    from tvm import relax

    x = builder.normalize(inputs[0])
    return builder.emit(relax.op.call_dps_packed(PACKED_FUNCTION, [x], out_ty=x.ty))  # not in place: see AllReduce


ALL_REDUCE_MAX = VamcOp("AllReduceMax", _function_body, _lower)
