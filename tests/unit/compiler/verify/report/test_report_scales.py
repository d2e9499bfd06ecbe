"""Scales and bins of the charts."""

from __future__ import annotations

import math

import pytest
from sample_reports import make_kl

from vamc_compiler.verify.report.scales import MAX_DECADES, LogScale, histogram, round_step


def test_scale_covers_what_was_measured() -> None:
    scale = LogScale.over([3e-7, 2e-3, 0.0, -1.0, math.nan, math.inf])
    assert (scale.low, scale.high) == (-7, -2)
    assert scale.place(1e-7) == pytest.approx(0) and scale.place(1e-2) == pytest.approx(1)
    assert scale.place(10**-4.5) == pytest.approx(0.5)
    assert (scale.place(0), scale.place(1e-30), scale.place(math.inf), scale.place(5)) == (0, 0, 1, 1)


@pytest.mark.parametrize("values", [[], [0.0], [math.nan], [1.0], [1e-300, 1.0], [5e-324], [1.7e308]])
def test_scale_has_a_length(values: list[float]) -> None:
    scale = LogScale.over(values, min_decades=2)
    assert 2 <= scale.high - scale.low <= MAX_DECADES
    assert len(scale.ticks(7)) <= 8
    assert all(0 <= scale.place(value) <= 1 for value in values if not math.isnan(value))


@pytest.mark.parametrize(
    "values",
    [
        make_kl(2.6e-7),
        (0.0, 0.0, 1e-3),
        (1e-6, 1e-5, 1e-4),
        (1e-30, 1.0, -1e-18),
        (math.nan, math.inf, -math.inf, 2e-6),
        (5e-324, 1.7e308),
        (math.nan,),
    ],
)
def test_histogram_counts_everything_once(values: tuple[float, ...]) -> None:
    bars = histogram(values)
    assert sum(bars.counts) + bars.below + bars.not_finite == len(values)
    assert bars.not_finite == sum(not math.isfinite(value) for value in values)
    assert bars.below >= sum(math.isfinite(value) and value <= 0 for value in values)
    assert 8 <= len(bars.counts) <= 40


def test_histogram_puts_values_between_edges() -> None:
    values = (1.5e-6, 3e-5, 3e-5, 7e-4)
    bars = histogram(values)
    for value in set(values):
        index = next(i for i in range(len(bars.counts)) if bars.edge(i) <= value < bars.edge(i + 1))
        assert bars.counts[index] == values.count(value)


@pytest.mark.parametrize(("largest", "step"), [(1, 1), (5, 1), (6, 2), (11, 5), (26, 10), (300, 100), (511, 200)])
def test_round_step(largest: int, step: int) -> None:
    assert round_step(largest, 5) == step
