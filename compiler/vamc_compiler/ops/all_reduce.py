"""`vamc::AllReduce`: the sum of x over all ranks, after every row-parallel linear layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx
import torch

from vamc_compiler.ops.collectives import exchange
from vamc_compiler.ops.definition import VamcOp, emit_node, exporting

if TYPE_CHECKING:
    from vamc_compiler.kernels.emitter import Emitter

PACKED_FUNCTION = "vamc.all_reduce"


def all_reduce(x: torch.Tensor) -> torch.Tensor:
    """Sum x float32 [n, w] over the ranks; the same on every rank."""
    if exporting():
        return emit_node("AllReduce", (x,), [(x.dtype, x.shape)])[0]
    tensors = exchange(x)
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


def _function_body(node: onnx.NodeProto) -> str:
    # One rank's file on its own is a sum with one term; verification merges the ranks and replaces this by a Sum.
    return """
    AllReduce (x) => (y) {
      y = Identity(x)
    }"""


def _lower(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], kernels: Emitter) -> Any:
    from tvm import relax

    x = builder.normalize(inputs[0])
    # Not in place: the memory planner does not see that a packed call's result shares its argument's storage, and
    # would give that storage to the next tensor.
    return builder.emit(relax.op.call_dps_packed(PACKED_FUNCTION, [x], out_ty=x.ty))


ALL_REDUCE = VamcOp("AllReduce", _function_body, _lower)
