"""Scales of charts: powers of ten over what was measured, and bins of KL."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_DECADES = 16
"""A scale covers no more; what is smaller stands at its lower end."""
EMPTY = (-9, -6)
"""Decades of a scale without a single positive value."""


@dataclass(frozen=True, kw_only=True)
class LogScale:
    """A logarithmic scale over whole decades."""

    low: int
    """Power of ten at the lower end."""
    high: int
    """Power of ten at the upper end."""

    @classmethod
    def over(cls, values: Iterable[float], min_decades: int = 1) -> LogScale:
        """The scale that holds every positive finite value, as far as `MAX_DECADES` go.

        Args:
            values: any floats; zeros, negatives, NaN and infinities have no place on a logarithmic scale.
            min_decades: the scale grows upward to at least these, so that noise does not look like a slope.
        """
        logs = [math.log10(value) for value in values if value > 0 and math.isfinite(value)]
        if not logs:
            return cls(low=EMPTY[0], high=EMPTY[1])
        high = math.ceil(max(logs))
        low = max(math.floor(min(logs)), high - MAX_DECADES)
        return cls(low=low, high=max(high, low + min_decades))

    def place(self, value: float) -> float:
        """0 at the lower end, 1 at the upper end; what is outside stands at the nearer end."""
        if value <= 0:
            return 0.0
        if math.isinf(value):
            return 1.0
        return min(1.0, max(0.0, (math.log10(value) - self.low) / (self.high - self.low)))

    def ticks(self, most: int) -> list[int]:
        """Powers of ten to label, at even steps."""
        step = max(1, math.ceil((self.high - self.low) / most))
        return list(range(self.low, self.high + 1, step))


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts over bins that are even in the logarithm."""

    scale: LogScale
    bins_per_decade: int
    counts: tuple[int, ...]
    """Of the bins, from the lower end of the scale."""
    below: int
    """Zeros, negatives and what is smaller than the scale."""
    not_finite: int
    """NaN and infinities."""

    @property
    def has_values(self) -> bool:
        """Whether a single value lies on the scale."""
        return any(self.counts)

    def edge(self, index: int) -> float:
        """The lower edge of a bin."""
        return float(10 ** (self.scale.low + index / self.bins_per_decade))


def histogram(values: Sequence[float]) -> Histogram:
    """Values in bins, around 12 to 40 of them."""
    scale = LogScale.over(values)
    decades = scale.high - scale.low
    per_decade = 8 if decades <= 3 else 4 if decades <= 8 else 2
    counts = [0] * (decades * per_decade)
    below = not_finite = 0
    for value in values:
        if not math.isfinite(value):
            not_finite += 1
        elif value <= 0 or math.log10(value) < scale.low:
            below += 1
        else:
            index = int((math.log10(value) - scale.low) * per_decade)
            counts[min(index, len(counts) - 1)] += 1
    return Histogram(scale=scale, bins_per_decade=per_decade, counts=tuple(counts), below=below, not_finite=not_finite)


def round_step(largest: float, most: int) -> int:
    """The smallest step of 1, 2, 5, 10, 20 ... that covers `largest` in at most `most` steps."""
    step = 1
    while step * most < largest:
        step = step * 5 // 2 if str(step)[0] == "2" else step * 2
    return step
