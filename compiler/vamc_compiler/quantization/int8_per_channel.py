"""int8 weights, one scale per output channel, rounded to the nearest; activations stay exact."""

from __future__ import annotations

from vamc_compiler.quantization.bounds import Bounds
from vamc_compiler.quantization.scheme import Scheme

INT8_PER_CHANNEL = Scheme(
    name="int8_per_channel",
    dtypes=("int8",),
    layer="QuantizedLinearPerChannel",
    bounds=Bounds(
        mean_kl=5e-2,
        same_top=0.98,
        perplexity_ratio=1.04,
        rounding_error=0.4,
        block_error=1e-2,
        exact_error=1e-3,
        rounding_rms_share=0.35,
        golden_tolerance=0.01,
    ),
)
