"""Combinations of settings that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vamc_compiler.quantization import DTYPES, SCHEMES

from .problems import Place, Problem

DTYPE_KEY = "backend.dtype"
QUANTIZE_KEY = "frontend.quantize"
TYPE_KEY = "frontend.quantize.type"


def find_contradictions(values: Mapping[str, Any], places: Mapping[str, Place]) -> Iterator[Problem]:
    """The contradictions among the settings that are right by themselves.

    Args:
        values: settings by dotted key; those with mistakes are absent.
        places: where the given ones were written.
    """
    if DTYPE_KEY not in values or not {QUANTIZE_KEY, TYPE_KEY} & values.keys():
        return
    dtype, quantization = values[DTYPE_KEY], values.get(TYPE_KEY)
    allowed = DTYPES if quantization is None else SCHEMES[quantization].dtypes
    if dtype in allowed:
        return
    if quantization is None:
        found = f"{dtype} without a {TYPE_KEY}"
        expected = f"{' or '.join(allowed)} where nothing is quantized"
        scheme = next(scheme for scheme in SCHEMES.values() if scheme.is_built and dtype in scheme.dtypes)
        fix = f"add {TYPE_KEY}: {scheme.name}, or set {DTYPE_KEY}: {DTYPES[0]}"
    else:
        found = f"{dtype} together with {TYPE_KEY}: {quantization} ({places[TYPE_KEY]})"
        expected = f"{allowed[0]}, the type this quantization gives the weights"
        fix = f"set {DTYPE_KEY}: {allowed[0]}, or remove {QUANTIZE_KEY} to keep {dtype} weights"
    yield Problem(place=places[DTYPE_KEY], key=DTYPE_KEY, found=found, expected=expected, fix=fix)
