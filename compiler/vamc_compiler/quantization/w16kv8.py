"""Weights in 16 bits and a KV cache in int8; configs that were written for VACC cards ask for it."""

from __future__ import annotations

from vamc_compiler.quantization.scheme import Scheme

W16KV8 = Scheme(
    name="w16kv8",
    dtypes=("fp16", "int8"),  # existing files say int8 and mean the cache
    rounds_weights=False,
    reads_dataset=True,
    instead_means="the same weights, with a KV cache in 16 bits",
)
