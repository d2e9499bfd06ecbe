"""int8 weights, one scale per output channel, and int8 activations, one scale per token, found when it is there."""

from __future__ import annotations

from vamc_compiler.quantization.bounds import Bounds
from vamc_compiler.quantization.scheme import Scheme

W8A8_DYNAMIC = Scheme(
    name="w8a8_dynamic",
    dtypes=("int8",),
    layer="QuantizedLinearDynamic",
    activations="int8",
    # The last bit of a sum now and then moves an activation to the next of 127 levels.
    bounds=Bounds(
        mean_kl=6e-2,
        same_top=0.97,
        perplexity_ratio=1.06,
        rounding_error=0.6,
        block_error=4e-2,
        exact_error=4e-2,
        rounding_rms_share=0.35,
        golden_tolerance=0.15,
    ),
)
