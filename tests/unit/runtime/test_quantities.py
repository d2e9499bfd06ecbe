"""Numbers for people keep their significant digits, whatever their size."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vamc_runtime.quantities import significant
from vamc_runtime.statistics import GenerationStatistics


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1864.2, "1,864"),
        (53.33, "53.3"),
        (4.0, "4.00"),
        (0.42, "0.420"),
        (0.0031, "0.00310"),
        (-1.25, "-1.25"),
    ],
)
def test_examples(value: float, text: str) -> None:
    assert significant(value) == text


@given(st.floats(min_value=1e-9, max_value=1e15), st.integers(1, 6))
def test_what_is_shown_is_what_it_is(value: float, digits: int) -> None:
    shown = significant(value, digits)
    assert "e" not in shown
    assert math.isclose(float(shown.replace(",", "")), value, rel_tol=0.51 * 10 ** (1 - digits), abs_tol=0)


def test_a_slow_model_has_a_speed() -> None:
    statistics = GenerationStatistics()
    statistics.add_step(0, 3, 400.0)
    assert "(0.00750 tok/s)" in statistics.summary_line()
