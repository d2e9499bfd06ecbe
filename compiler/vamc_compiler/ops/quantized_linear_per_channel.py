"""`vamc::QuantizedLinearPerChannel`: a linear layer whose int8 weight has one scale per output channel.

y[n, o] = (x[n, i] @ quant_w[o, i]^T) * scale_w[o]. Activations stay float32; a bias, where a model has one, is added
outside. Node name and inputs follow the original quantizer (formats.md B).

Kernels round each row of x to 16 bits of its largest magnitude. A rank that holds a part of a row takes that of the
whole row as a fourth input, `top`, and so rounds as one rank does; here, where nothing is rounded, it has no effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx
import torch

from vamc_compiler.ops.definition import VamcOp, emit_node, exporting

if TYPE_CHECKING:
    from vamc_compiler.kernels.emitter import Emitter


def quantized_linear_per_channel(
    x: torch.Tensor, quant_w: torch.Tensor, scale_w: torch.Tensor, top: torch.Tensor | None = None
) -> torch.Tensor:
    """Multiply x float32 [n, i] by quant_w int8 [o, i] scaled by scale_w float32 [o]; returns float32 [n, o].

    `top` float32 [n, 1]: no magnitude in a row of x exceeds it.
    """
    if exporting():
        output = (x.dtype, (x.shape[0], quant_w.shape[0]))
        inputs = (x, quant_w, scale_w, *(() if top is None else (top,)))
        return emit_node("QuantizedLinearPerChannel", inputs, [output])[0]
    return torch.nn.functional.linear(x, quant_w.to(x.dtype)) * scale_w


def _function_body(node: onnx.NodeProto) -> str:
    # Not DequantizeLinear: onnxruntime 1.31 fuses it with MatMul into a kernel that rounds activations to int8.
    top = ", top" if len(node.input) == 4 else ""
    return f"""
    QuantizedLinearPerChannel (x, quant_w, scale_w{top}) => (y) {{
      weight = CastLike(quant_w, x)
      weight_io = Transpose <perm = [1, 0]> (weight)
      unscaled = MatMul(x, weight_io)
      y = Mul(unscaled, scale_w)
    }}"""


def _lower(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], kernels: Emitter) -> Any:
    return kernels.linear(builder, "QuantizedLinearPerChannel", inputs, attributes)


QUANTIZED_LINEAR_PER_CHANNEL = VamcOp("QuantizedLinearPerChannel", _function_body, _lower, weight_input=1)
