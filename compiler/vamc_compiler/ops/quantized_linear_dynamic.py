"""`vamc::QuantizedLinearDynamic`: int8 weights and int8 activations, each with scales of its own (w8a8).

Every row of x (token) is quantized when it is there: scale[n] = max |x[n]| / 127, q = the nearest whole number of
x / scale. Then y[n, o] = (q[n, i] @ quant_w[o, i]^T) * scale[n] * scale_w[o]. Twice as fast in prefill as exact
activations, at the price of rounding them to 8 bits.

`QuantizedLinearDynamicByTop` has max |x[n]| as another input, `top`: ranks that hold parts of a row so round as one
rank rounds the whole. An op of its own for the reason in `quantized_linear_per_channel`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx
import torch

from vamc_compiler.ops.definition import VamcOp, emit_node, exporting
from vamc_compiler.ops.row_max import row_max

if TYPE_CHECKING:
    from vamc_compiler.kernels.emitter import Emitter

LEVELS = 127
SMALLEST = 1e-30
"""A row without a larger value counts as zero."""


BY_TOP = "QuantizedLinearDynamicByTop"


def quantized_linear_dynamic(
    x: torch.Tensor, quant_w: torch.Tensor, scale_w: torch.Tensor, top: torch.Tensor | None = None
) -> torch.Tensor:
    """Multiply x float32 [n, i] by quant_w int8 [o, i] scaled by scale_w float32 [o]; returns float32 [n, o].

    `top` float32 [n, 1], which no magnitude in a row of x may exceed, replaces the largest of the row.
    """
    if exporting():
        output = (x.dtype, (x.shape[0], quant_w.shape[0]))
        if top is None:
            return emit_node("QuantizedLinearDynamic", (x, quant_w, scale_w), [output])[0]
        return emit_node(BY_TOP, (x, quant_w, scale_w, top), [output])[0]
    if top is None:
        top = row_max(x)
    inverse = torch.where(top > SMALLEST, LEVELS / top, 0.0)
    numbers = torch.round(x * inverse)
    scale = torch.where(top > SMALLEST, top / LEVELS, 0.0)
    return torch.nn.functional.linear(numbers, quant_w.to(x.dtype)) * scale * scale_w


OWN_TOP = """
      last = Constant <value_ints = [-1]> ()
      magnitude = Abs(x)
      top = ReduceMax <keepdims = 1> (magnitude, last)"""


def _function_body(node: onnx.NodeProto) -> str:
    given = node.op_type == BY_TOP
    return f"""
    {node.op_type} (x, quant_w, scale_w{", top" if given else ""}) => (y) {{{"" if given else OWN_TOP}
      levels = Constant <value_float = {LEVELS}.0> ()
      smallest = Constant <value_float = {SMALLEST}> ()
      zero = Constant <value_float = 0.0> ()
      scaled = Greater(top, smallest)
      inverse_any = Div(levels, top)
      inverse = Where(scaled, inverse_any, zero)
      unrounded = Mul(x, inverse)
      numbers = Round(unrounded)
      scale_any = Div(top, levels)
      scale = Where(scaled, scale_any, zero)
      weight = CastLike(quant_w, x)
      weight_io = Transpose <perm = [1, 0]> (weight)
      product = MatMul(numbers, weight_io)
      per_token = Mul(product, scale)
      y = Mul(per_token, scale_w)
    }}"""


def _lower(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], kernels: Emitter) -> Any:
    return kernels.linear(builder, "QuantizedLinearDynamic", inputs, attributes)


QUANTIZED_LINEAR_DYNAMIC = VamcOp("QuantizedLinearDynamic", _function_body, _lower, weight_input=1, activation_bits=8)
QUANTIZED_LINEAR_DYNAMIC_BY_TOP = VamcOp(
    BY_TOP, _function_body, _lower, weight_input=1, activation_bits=8, variant_of="QuantizedLinearDynamic"
)
