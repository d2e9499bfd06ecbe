"""`vamc::AddRMSNorm`: the residual addition and the norm that follows it, sum = x + added; y = RMSNorm(sum)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx
import torch

from vamc_compiler.ops.definition import VamcOp, emit_node, exporting
from vamc_compiler.ops.rms_norm import NORM_BODY, rms_norm

if TYPE_CHECKING:
    from vamc_compiler.kernels.emitter import Emitter


def add_rms_norm(
    x: torch.Tensor, added: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of x and added float32 [n, w], and that sum normalised with weight float32 [w]."""
    if exporting():
        results = emit_node("AddRMSNorm", (x, added, weight), [(x.dtype, x.shape)] * 2, {"epsilon": epsilon})
        return results[0], results[1]
    total = x + added
    return total, rms_norm(total, weight, epsilon)


def _function_body(node: onnx.NodeProto) -> str:
    return f"""
    AddRMSNorm <epsilon> (x, added, weight) => (stream, y) {{
      stream = Add(x, added){NORM_BODY}
    }}"""


def _lower(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], kernels: Emitter) -> Any:
    from tvm import relax

    from vamc_compiler.kernels.activations import RMSNorm

    source = RMSNorm(attributes["epsilon"], residual=True)
    return relax.Tuple(kernels.rows(builder, source, inputs, kernels.form_for(attributes), extra_outputs=1))


ADD_RMS_NORM = VamcOp("AddRMSNorm", _function_body, _lower, rows_output=1)
