"""`vamc::AllGather`: the last dimensions of all ranks side by side, after the vocabulary-parallel head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx
import torch

from vamc_compiler.ops.collectives import exchange
from vamc_compiler.ops.definition import VamcOp, emit_node, exporting

if TYPE_CHECKING:
    from vamc_compiler.kernels.emitter import Emitter

PACKED_FUNCTION = "vamc.all_gather"


def all_gather(x: torch.Tensor, num_ranks: int) -> torch.Tensor:
    """Concatenate x float32 [m, v] of every rank, in rank order, to [m, num_ranks * v]."""
    if exporting():
        shape = (x.shape[0], x.shape[1] * num_ranks)
        return emit_node("AllGather", (x,), [(x.dtype, shape)], {"num_ranks": num_ranks})[0]
    tensors = exchange(x)
    return torch.cat(tensors if len(tensors) == num_ranks else tensors * num_ranks, dim=-1)


def _function_body(node: onnx.NodeProto) -> str:
    # One rank's file on its own has only its own part: it stands in for every rank's, so that shapes hold.
    return """
    AllGather <num_ranks> (x) => (y) {
      one = Constant <value_ints = [1]> ()
      ranks = Constant <value_int: int = @num_ranks> ()
      ranks_1d = Reshape(ranks, one)
      repeats = Concat <axis = 0> (one, ranks_1d)
      y = Tile(x, repeats)
    }"""


def _lower(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], kernels: Emitter) -> Any:
    from tvm import relax

    x = builder.normalize(inputs[0])
    rows, width = x.ty.shape
    gathered = relax.TensorType([rows, width * attributes["num_ranks"]], x.ty.dtype)
    return builder.emit(relax.op.call_dps_packed(PACKED_FUNCTION, [x], out_ty=gathered))


ALL_GATHER = VamcOp("AllGather", _function_body, _lower)
