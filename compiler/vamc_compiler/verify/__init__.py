"""Proof that the compiled graph computes what the original computes: stages, comparisons, bisection, reports."""
