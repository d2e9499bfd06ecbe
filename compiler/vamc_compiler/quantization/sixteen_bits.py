"""Weights in 16 bits: no scheme, and bounds of their own."""

from __future__ import annotations

from vamc_compiler.quantization.bounds import Bounds

DTYPES = ("fp16", "bf16")
"""Values of `backend.dtype` where nothing is quantized."""
FLOAT16_BOUNDS = Bounds(
    mean_kl=2e-5,
    same_top=0.99,
    perplexity_ratio=1.002,
    rounding_error=6e-3,
    block_error=1e-3,
    exact_error=1e-3,
    rounding_rms_share=0.2,
    golden_tolerance=2e-3,
)
# Kernels round activations to bfloat16 too, in compiled code only.
BFLOAT16_BOUNDS = Bounds(
    mean_kl=2e-3,
    same_top=0.99,
    perplexity_ratio=1.02,
    rounding_error=2e-2,
    block_error=5e-2,
    exact_error=1e-3,
    rounding_rms_share=0.3,
    golden_tolerance=0.1,
)
