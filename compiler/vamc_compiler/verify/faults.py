"""Which faults a passed verification excludes, and which the short one of a build leaves open.

The certificate, `vamc inspect` and docs/numerics.md take their words from here. tests/numerics makes the faults: each
of the excluded kinds is caught there by its comparison, and what a build cannot see is left open for these reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from vamc_compiler.verify.result import PairResult, VerificationReport

EXCLUDED: Mapping[str, str] = {
    "weights": "a stored number on any rank that is not the checkpoint's: another shard, scale, order or rounding",
    "prefill": "compiled code that computes another model, in any block by more than its precision may round",
    "chunked prefill": "a prompt that gives something else in several steps than in one",
    "cached decode": "tokens that give something else one at a time than all at once",
    "greedy tokens": "generated tokens that the original would not choose, where its choice is clear",
}
"""What a comparison that passed excludes, by `PairResult.check`, in the order of importance."""

Reason = Literal["not compiled", "below the rounding"]
LEFT_OPEN: Mapping[Reason, str] = {
    "not compiled": "a mistake in an op's torch code or ONNX function, which only verification runs: compiled "
    "code does not contain it",
    "below the rounding": "a mistake that changes less than the precision rounds: only the comparison in float32 shows "
    "it",
}
"""Why the short verification of a build does not see a fault that `vamc verify` finds."""

NO_REFERENCE = "a mistake of the modeling file: there was no independent original to compare it with"


def excluded(report: VerificationReport) -> tuple[str, ...]:
    """What a verification that passed excludes, as far as its comparisons ran."""
    ran = {pair.check for pair in report.pairs if pair.passed and _is_of_the_runstream(pair)}
    return tuple(text for check, text in EXCLUDED.items() if check in ran)


def left_open(report: VerificationReport) -> tuple[str, ...]:
    """What the short verification of a build leaves open."""
    return (*LEFT_OPEN.values(), *(() if report.reference else (NO_REFERENCE,)))


def _is_of_the_runstream(pair: PairResult) -> bool:
    """Whether a comparison is of what was compiled, and not of earlier stages."""
    return pair.check == "weights" or pair.after.startswith("compiled")
