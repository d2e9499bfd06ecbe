"""The `vamc` ops that the compiler lowers itself; everything else in a modeling file is plain torch."""

from vamc_compiler.ops.all_gather import ALL_GATHER, all_gather
from vamc_compiler.ops.all_reduce import ALL_REDUCE, all_reduce
from vamc_compiler.ops.definition import DOMAIN, ONNX_OPSET_VERSION, OPSET_VERSION, VamcOp
from vamc_compiler.ops.linear import LINEAR, linear
from vamc_compiler.ops.paged_attention import PAGED_ATTENTION, paged_attention
from vamc_compiler.ops.quantized_linear_per_channel import (
    QUANTIZED_LINEAR_PER_CHANNEL,
    quantized_linear_per_channel,
)

OPS: dict[str, VamcOp] = {
    op.name: op for op in (LINEAR, QUANTIZED_LINEAR_PER_CHANNEL, PAGED_ATTENTION, ALL_REDUCE, ALL_GATHER)
}

__all__ = [
    "DOMAIN",
    "ONNX_OPSET_VERSION",
    "OPS",
    "OPSET_VERSION",
    "VamcOp",
    "all_gather",
    "all_reduce",
    "linear",
    "paged_attention",
    "quantized_linear_per_channel",
]
