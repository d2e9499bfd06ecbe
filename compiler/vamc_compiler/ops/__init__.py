"""The `vamc` ops that the compiler lowers itself; everything else in a modeling file is plain torch."""

from vamc_compiler.ops.add_rms_norm import ADD_RMS_NORM, add_rms_norm
from vamc_compiler.ops.all_gather import ALL_GATHER, all_gather
from vamc_compiler.ops.all_reduce import ALL_REDUCE, all_reduce
from vamc_compiler.ops.all_reduce_max import ALL_REDUCE_MAX, all_reduce_max
from vamc_compiler.ops.definition import DOMAIN, ONNX_OPSET_VERSION, OPSET_VERSION, VamcOp
from vamc_compiler.ops.embedding import EMBEDDING, embedding
from vamc_compiler.ops.linear import LINEAR, linear
from vamc_compiler.ops.paged_attention import PAGED_ATTENTION, paged_attention
from vamc_compiler.ops.quantized_linear_dynamic import (
    QUANTIZED_LINEAR_DYNAMIC,
    QUANTIZED_LINEAR_DYNAMIC_BY_TOP,
    quantized_linear_dynamic,
)
from vamc_compiler.ops.quantized_linear_per_channel import (
    QUANTIZED_LINEAR_PER_CHANNEL,
    QUANTIZED_LINEAR_PER_CHANNEL_BY_TOP,
    quantized_linear_per_channel,
)
from vamc_compiler.ops.rms_norm import RMS_NORM, rms_norm
from vamc_compiler.ops.row_max import ROW_MAX, row_max
from vamc_compiler.ops.silu_mul import SILU_MUL, silu_mul

OPS: dict[str, VamcOp] = {
    op.name: op
    for op in (
        EMBEDDING,
        LINEAR,
        QUANTIZED_LINEAR_PER_CHANNEL,
        QUANTIZED_LINEAR_PER_CHANNEL_BY_TOP,
        QUANTIZED_LINEAR_DYNAMIC,
        QUANTIZED_LINEAR_DYNAMIC_BY_TOP,
        RMS_NORM,
        ADD_RMS_NORM,
        SILU_MUL,
        PAGED_ATTENTION,
        ROW_MAX,
        ALL_REDUCE,
        ALL_REDUCE_MAX,
        ALL_GATHER,
    )
}

__all__ = [
    "DOMAIN",
    "ONNX_OPSET_VERSION",
    "OPS",
    "OPSET_VERSION",
    "VamcOp",
    "add_rms_norm",
    "all_gather",
    "all_reduce",
    "all_reduce_max",
    "embedding",
    "linear",
    "paged_attention",
    "quantized_linear_dynamic",
    "quantized_linear_per_channel",
    "rms_norm",
    "row_max",
    "silu_mul",
]
