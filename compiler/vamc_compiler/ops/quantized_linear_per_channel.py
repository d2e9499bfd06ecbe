"""`vamc::QuantizedLinearPerChannel`: a linear layer whose int8 weight has one scale per output channel.

y[n, o] = (x[n, i] @ quant_w[o, i]^T) * scale_w[o]. Activations stay float32; a bias, where a model has one, is added
outside. Node name and inputs follow the quantizer of VastModelZOO.

Kernels round each row of x to 16 bits of its largest magnitude. `QuantizedLinearPerChannelByTop` has that magnitude as
another input, `top`: ranks that hold parts of a row so round as one rank rounds the whole. An op of its own and not an
optional input: onnxruntime 1.23 cannot tell two functions of one name apart. Here, where nothing is rounded, `top` has
no effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx
import torch

from vamc_compiler.ops.definition import VamcOp, emit_node, exporting

if TYPE_CHECKING:
    from vamc_compiler.kernels.emitter import Emitter


BY_TOP = "QuantizedLinearPerChannelByTop"


def quantized_linear_per_channel(
    x: torch.Tensor, quant_w: torch.Tensor, scale_w: torch.Tensor, top: torch.Tensor | None = None
) -> torch.Tensor:
    """Multiply x float32 [n, i] by quant_w int8 [o, i] scaled by scale_w float32 [o]; returns float32 [n, o].

    No magnitude in a row of x exceeds `top` float32 [n, 1], where it is given.
    """
    if exporting():
        output = (x.dtype, (x.shape[0], quant_w.shape[0]))
        if top is None:
            return emit_node("QuantizedLinearPerChannel", (x, quant_w, scale_w), [output])[0]
        return emit_node(BY_TOP, (x, quant_w, scale_w, top), [output])[0]
    return torch.nn.functional.linear(x, quant_w.to(x.dtype)) * scale_w


def _function_body(node: onnx.NodeProto) -> str:
    top = ", top" if node.op_type == BY_TOP else ""
    # Not DequantizeLinear: onnxruntime 1.31 fuses it with MatMul into a kernel that rounds activations to int8.
    return f"""
    {node.op_type} (x, quant_w, scale_w{top}) => (y) {{
      weight = CastLike(quant_w, x)
      weight_io = Transpose <perm = [1, 0]> (weight)
      unscaled = MatMul(x, weight_io)
      y = Mul(unscaled, scale_w)
    }}"""


def _lower(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], kernels: Emitter) -> Any:
    return kernels.linear(builder, "QuantizedLinearPerChannel", inputs, attributes)


QUANTIZED_LINEAR_PER_CHANNEL = VamcOp(
    "QuantizedLinearPerChannel", _function_body, _lower, weight_input=1, activation_bits=16
)
QUANTIZED_LINEAR_PER_CHANNEL_BY_TOP = VamcOp(
    BY_TOP, _function_body, _lower, weight_input=1, activation_bits=16, variant_of="QuantizedLinearPerChannel"
)
