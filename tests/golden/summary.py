"""The figures that are kept of a verification, and whether new ones are worse by more than their noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vamc_compiler.verify.result import FLOAT32_STAGE

if TYPE_CHECKING:
    from vamc_compiler.verify.result import PairResult, VerificationReport


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One kind of figure: how it is written, and what its noise is (measured: docs/numerics.md)."""

    meaning: str
    floor: float
    """Errors up to this one are all the same: chance decides about the last bit of a sum, and by it about a step of the
    float16 cache."""
    coarse_floor: float
    """The same where activations are rounded to 8 bits: a step is then one of 127 levels."""
    factor: float
    """Above it, so many times the golden error is still the same."""
    form: str
    """How the value is written."""
    ideal: float = 0.0
    """The value of a perfect copy: what the error is counted from."""

    def error(self, value: float) -> float:
        """How far a value is from that of a perfect copy; for a ratio its logarithm, so that both sides count alike."""
        if self.ideal == 0:
            return value
        return abs(math.log(value)) if value > 0 else math.inf

    def is_worse(self, golden: float, found: float, *, coarse: bool) -> bool:
        """Whether the error grew by more than its noise; what is no number is worse than everything."""
        bound = max(self.coarse_floor if coarse else self.floor, self.factor * self.error(golden))
        return not self.error(found) <= bound

    def write(self, value: float) -> str:
        """For the golden file."""
        if self.ideal == 0 and value <= self.floor and self.floor > 0:
            return f"<{self.floor:.0e}"
        return f"{value:{self.form}}"


FIGURES = {
    "kl": Figure(meaning="mean KL in nats", floor=3e-8, coarse_floor=5e-4, factor=2, form=".1e"),
    "same": Figure(
        meaning="same top token where decided", floor=5e-3, coarse_floor=0.015, factor=1.5, form=".3f", ideal=1
    ),
    "ppl": Figure(meaning="perplexity ratio", floor=2e-4, coarse_floor=5e-3, factor=2, form=".4f", ideal=1),
    "block": Figure(meaning="largest block error", floor=8e-4, coarse_floor=2e-2, factor=2, form=".1e"),
    "rms": Figure(
        meaning="largest block error, root mean square over tokens", floor=5e-5, coarse_floor=3e-3, factor=2, form=".1e"
    ),
    # Between the original and the modeling file in float32 there is no rounding that chance could turn.
    "block32": Figure(
        meaning="largest block error where nothing is rounded", floor=5e-5, coarse_floor=5e-5, factor=2, form=".1e"
    ),
    "rms32": Figure(meaning="its root mean square over tokens", floor=1e-5, coarse_floor=1e-5, factor=2, form=".1e"),
    "wrong": Figure(meaning="tensors that differ", floor=0, coarse_floor=0, factor=1, form=".0f"),
}

Figures = Mapping[str, float]
"""Name in `FIGURES` -> value."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is kept of one verification."""

    library: str
    """CPU level of the library that ran."""
    coarse: bool
    """Activations are rounded to 8 bits."""
    pairs: Mapping[str, Figures]
    """By pair, in the order of the stages."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A figure that is not what it was."""

    pair: str
    figure: str
    golden: float | None
    """None for what is new."""
    found: float | None
    """None for what is gone."""
    coarse: bool
    """See `Summary`."""

    @property
    def is_worse(self) -> bool:
        """Whether the check fails by it: the error grew, or nothing was measured."""
        if self.golden is None:
            return False
        return self.found is None or FIGURES[self.figure].is_worse(self.golden, self.found, coarse=self.coarse)

    def __str__(self) -> str:
        figure = FIGURES[self.figure]
        golden, found = ("none" if v is None else figure.write(v) for v in (self.golden, self.found))
        return f"{self.pair}: {figure.meaning}: golden {golden}, found {found}"


def summarize(report: VerificationReport) -> Summary:
    """The figures of a report."""
    return Summary(
        library=report.library,
        coarse=report.precision == "w8a8_dynamic",
        pairs={_name(pair): dict(_figures(pair)) for pair in report.pairs},
    )


def _name(pair: PairResult) -> str:
    if pair.check == "prefill":
        return f"{pair.before} -> {pair.after}"
    return f"{pair.after}, {pair.check}" if pair.check == "greedy tokens" else pair.after


def _figures(pair: PairResult) -> Iterator[tuple[str, float]]:
    if pair.check == "weights":
        yield "wrong", pair.budgets[0].value
    if pair.metrics is not None:
        if pair.check != "greedy tokens":  # after another choice at a toss-up, the KL is one of other tokens
            yield "kl", pair.metrics.kl_mean
        yield "same", pair.metrics.same_decided
        if pair.check != "greedy tokens":
            yield "ppl", pair.metrics.perplexity_ratio
    blocks = [block for block in pair.blocks if block.isolated is not None and block.isolated_rms is not None]
    if blocks:
        kind = "32" if pair.after == FLOAT32_STAGE else ""
        yield f"block{kind}", max(block.isolated or 0.0 for block in blocks)
        yield f"rms{kind}", max(block.isolated_rms or 0.0 for block in blocks)


def compare(golden: Summary, found: Summary) -> list[Change]:
    """Every figure that changed by more than its noise, or that only one of the two has."""
    changes = []
    for pair in dict.fromkeys((*golden.pairs, *found.pairs)):
        ours, theirs = golden.pairs.get(pair, {}), found.pairs.get(pair, {})
        for name in dict.fromkeys((*ours, *theirs)):
            before, after = ours.get(name), theirs.get(name)
            if not _same(FIGURES[name], before, after, coarse=found.coarse):
                changes.append(Change(pair=pair, figure=name, golden=before, found=after, coarse=found.coarse))
    return changes


def _same(figure: Figure, before: float | None, after: float | None, *, coarse: bool) -> bool:
    if before is None or after is None:
        return False
    return not figure.is_worse(before, after, coarse=coarse) and not figure.is_worse(after, before, coarse=coarse)


def updated(golden: Summary | None, found: Summary) -> Summary:
    """What to keep from now on: the golden figure wherever the new one is the same but for noise.

    So a file shows only what really changed, and no figure drifts by a little noise with every update.
    """
    if golden is None:
        return found
    changed = {(change.pair, change.figure) for change in compare(golden, found)}
    return Summary(
        library=found.library if changed else golden.library,
        coarse=found.coarse,
        pairs={
            pair: {
                name: value if (pair, name) in changed else golden.pairs[pair][name] for name, value in figures.items()
            }
            for pair, figures in found.pairs.items()
        },
    )
