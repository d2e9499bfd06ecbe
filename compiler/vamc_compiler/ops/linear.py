"""`vamc::Linear`: y[n, o] = x[n, i] @ weight[o, i]^T with a 16-bit weight and float32 arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx
import torch

from vamc_compiler.ops.definition import VamcOp, emit_node, exporting

if TYPE_CHECKING:
    from vamc_compiler.kernels.emitter import Emitter


def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Multiply x float32 [n, i] by weight float16|bfloat16|float32 [o, i]; returns float32 [n, o]."""
    if exporting():
        return emit_node("Linear", (x, weight), [(x.dtype, (x.shape[0], weight.shape[0]))])[0]
    return torch.nn.functional.linear(x, weight.to(x.dtype))


def _function_body(node: onnx.NodeProto) -> str:
    return """
    Linear (x, weight) => (y) {
      weight_float = CastLike(weight, x)
      weight_io = Transpose <perm = [1, 0]> (weight_float)
      y = MatMul(x, weight_io)
    }"""


def _lower(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], kernels: Emitter) -> Any:
    return kernels.linear(builder, "Linear", inputs, attributes)


LINEAR = VamcOp("Linear", _function_body, _lower, weight_input=1)
