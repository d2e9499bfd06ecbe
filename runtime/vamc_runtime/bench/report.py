"""Results as data: one JSON object, or one CSV line for each case."""

from __future__ import annotations

import csv
import dataclasses
import statistics
from pathlib import Path
from typing import Any

from vamc_runtime.bench.measure import Result
from vamc_runtime.errors import UserError


def as_data(result: Result, peak: str) -> dict[str, Any]:
    """A result with what follows from it.

    Args:
        result: one case.
        peak: the type whose peak bounds a prefill (`measure.reference_peak`), or none.
    """
    data: dict[str, Any] = {
        "phase": result.case.phase,
        "batch": result.case.batch,
        "context": result.case.context,
        "tokens": result.case.num_tokens,
        "repeat": len(result.seconds),
        "seconds_median": result.median_seconds,
        "seconds_min": min(result.seconds),
        "seconds_max": max(result.seconds),
        "tokens_per_second": result.tokens_per_second,
        "share_of_roof": result.share_of_roof(peak),
        **dataclasses.asdict(result.cost),
        "linear_multiply_adds_per_second": result.linear_per_second,
        "roof": "read" if result.read_seconds else peak or None,
        "read_bytes": result.read_bytes,
        "read_bytes_per_second": result.read_bandwidth,
        "read_seconds_median": statistics.median(result.read_seconds) if result.read_seconds else None,
        "read_seconds_weights": statistics.median(result.weight_read_seconds) if result.read_seconds else None,
        "seconds": list(result.seconds),
        "read_seconds": list(result.read_seconds),
        "peak_multiply_adds_per_second": result.peaks,
    }
    if result.profile is not None:
        data["profile"] = dataclasses.asdict(result.profile)
    return data


def write_csv(path: Path, around: dict[str, Any], results: list[Result], peak: str) -> None:
    """One line for each case, the surroundings on each: files of several runs can be put together.

    Raises:
        UserError: the file cannot be written.
    """
    lines = [_flat(around, "") | _flat(as_data(result, peak), "") for result in results]
    names = list(dict.fromkeys(name for line in lines for name in line))
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            writer.writerows(lines)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}", fix="name another file with --csv") from error


def _flat(data: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Nested names with dots; lists of numbers separated by spaces; no table of operations."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if name == "profile":
            continue
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            flat[prefix + name] = " ".join(str(item).replace(" ", "") for item in value)
        else:
            flat[prefix + name] = "" if value is None else value
    return flat
