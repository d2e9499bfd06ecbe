"""Measures every figure that docs/kernels.md and docs/runtime.md quote; `benchmarks/kernels.py` runs it."""
