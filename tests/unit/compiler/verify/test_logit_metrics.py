"""Every figure against the formula written out slowly, and what must hold for any logits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vamc_compiler.verify.metrics import (
    compare_logits,
    decided,
    kl_divergence,
    log_softmax,
    root_mean_square,
    token_errors,
    token_norms,
)
from vamc_compiler.verify.result import ErrorStatistics, LogitMetrics
from vamc_compiler.verify.run import Array

SEQUENCES = ((3, 1, 4, 1, 5), (0, 2), (6,))
RNG = np.random.default_rng(11)
BEFORE = (RNG.standard_normal((8, 7)) * 3).astype(np.float32)
AFTER = (BEFORE + RNG.standard_normal((8, 7)) * 0.3).astype(np.float32)
LOGITS = arrays(np.float32, (5, 6), elements=st.floats(-30, 30, width=32))


def compare(before: Array, after: Array, sequences: Sequence[Sequence[int]] = SEQUENCES) -> LogitMetrics:
    cuts = np.cumsum([len(sequence) for sequence in sequences])[:-1]
    return compare_logits(np.split(before, cuts), np.split(after, cuts), sequences)[0]


def probabilities(row: Array) -> list[float]:
    powers = [math.exp(float(x) - float(row.max())) for x in row]
    return [power / sum(powers) for power in powers]


def slow_kl(before: Array, after: Array) -> float:
    pairs = zip(probabilities(before), probabilities(after), strict=True)
    return sum(p * math.log(p / q) for p, q in pairs if p > 0)


def slow_quantile(values: list[float], share: float) -> float:
    """Linear between the two nearest."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def check_statistics(found: ErrorStatistics, values: list[float]) -> None:
    assert found.mean == pytest.approx(sum(values) / len(values))
    assert found.max == pytest.approx(max(values))
    for name, share in (("median", 0.5), ("p99", 0.99), ("p999", 0.999)):
        assert getattr(found, name) == pytest.approx(slow_quantile(values, share)), name


def test_errors_of_single_logits() -> None:
    found = compare(BEFORE, AFTER)
    pairs = zip(BEFORE.tolist(), AFTER.tolist(), strict=True)
    absolute = [[abs(y - x) for x, y in zip(*rows, strict=True)] for rows in pairs]
    check_statistics(found.absolute, [value for row in absolute for value in row])
    scales = [math.sqrt(sum(float(x) ** 2 for x in row) / len(row)) for row in BEFORE]
    check_statistics(
        found.relative, [value / scale for row, scale in zip(absolute, scales, strict=True) for value in row]
    )
    assert found.num_positions == 8


def test_cosines() -> None:
    found = compare(BEFORE, AFTER)
    cosines = []
    for x, y in zip(BEFORE.tolist(), AFTER.tolist(), strict=True):
        dot = sum(a * b for a, b in zip(x, y, strict=True))
        cosines.append(dot / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y)))
    assert found.cosine_min == pytest.approx(min(cosines))
    assert found.cosine_mean == pytest.approx(sum(cosines) / 8)


def test_kl() -> None:
    expected = [slow_kl(x, y) for x, y in zip(BEFORE, AFTER, strict=True)]
    found, kl = compare_logits([BEFORE], [AFTER], [[0] * 8])
    assert kl.tolist() == pytest.approx(expected)
    assert found.kl_mean == pytest.approx(sum(expected) / 8)
    assert found.kl_median == pytest.approx(slow_quantile(expected, 0.5))
    assert found.kl_p999 == pytest.approx(slow_quantile(expected, 0.999))
    assert found.kl_max == pytest.approx(max(expected))


def test_kl_goes_one_way() -> None:
    assert compare(BEFORE, AFTER).kl_mean != pytest.approx(compare(AFTER, BEFORE).kl_mean, rel=1e-6)


def test_top_tokens() -> None:
    before = np.array([[5, 4.95, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0], [0, 5, 1, 1, 1, 1], [0, 0, 0, 0, 1, 0]], np.float32)
    after = np.array([[4.95, 5, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0], [5, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 0]], np.float32)
    found = compare(before, after, [[0, 0, 0, 0]])
    assert found.same_top == 0.5, "positions 1 and 3"
    assert found.same_decided == pytest.approx(2 / 3), "position 0 is a toss-up"
    assert decided(log_softmax(before)).tolist() == [False, True, True, True]


def test_top_five() -> None:
    before = np.array([[9, 8, 7, 6, 5, 0, 0, 0, 0, 0], [9, 8, 7, 6, 5, 0, 0, 0, 0, 0]], np.float32)
    after = np.array([[5, 6, 7, 8, 9, 0, 0, 0, 0, 0], [0, 0, 7, 6, 5, 9, 8, 0, 0, 0]], np.float32)
    assert compare(before, after, [[0, 0]]).top5_overlap == pytest.approx((1 + 3 / 5) / 2)
    assert compare(before[:, :3], after[:, :3], [[0, 0]]).top5_overlap == 1, "fewer than five tokens"


def test_perplexities() -> None:
    """Of the tokens that follow within a sequence: four in the first, one in the second, none in the third."""
    losses: list[tuple[float, float]] = []
    for row, following in ((0, 1), (1, 4), (2, 1), (3, 5), (5, 2)):
        one, other = (probabilities(logits[row])[following] for logits in (BEFORE, AFTER))
        losses.append((-math.log(one), -math.log(other)))
    found = compare(BEFORE, AFTER)
    assert found.perplexity_before == pytest.approx(math.exp(sum(x for x, _ in losses) / 5))
    assert found.perplexity_after == pytest.approx(math.exp(sum(y for _, y in losses) / 5))
    gaps = [y - x for x, y in losses]
    mean = sum(gaps) / 5
    spread = 1.96 * math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / 5) / math.sqrt(5)
    assert found.perplexity_ratio == pytest.approx(math.exp(mean))
    assert found.perplexity_ratio_low == pytest.approx(math.exp(mean - spread))
    assert found.perplexity_ratio_high == pytest.approx(math.exp(mean + spread))


def test_one_position() -> None:
    """Nothing follows: perplexities of 1, the rest as ever."""
    found = compare(BEFORE[:1], AFTER[:1], [[3]])
    assert (found.num_positions, found.perplexity_before, found.perplexity_ratio) == (1, 1, 1)
    assert found.kl_mean == found.kl_max == pytest.approx(slow_kl(BEFORE[0], AFTER[0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("everywhere", [True, False])
def test_what_is_no_number_is_never_good(bad: float, everywhere: bool) -> None:
    """One bad logit or all of them: no figure that a budget looks at may pass."""
    after = AFTER.copy()
    after[slice(None) if everywhere else 2] = bad
    with np.errstate(all="ignore"):
        found = compare(BEFORE, after)
    assert not found.kl_mean <= 1e9
    assert found.same_top == found.same_decided == 0
    assert not found.absolute.max <= 1e9


def test_one_bad_logit() -> None:
    after = AFTER.copy()
    after[2, 3] = np.nan
    with np.errstate(all="ignore"):
        found = compare(BEFORE, after)
    assert not found.kl_mean <= 1e9 and not found.kl_max <= 1e9
    assert found.same_top == found.same_decided == 0
    assert not found.absolute.mean <= 1e9 and not found.cosine_min >= -1


@settings(max_examples=40, deadline=None)
@given(LOGITS)
def test_the_same_logits_have_no_error(logits: Array) -> None:
    found = compare(logits, logits.copy(), [[0, 1, 2], [3, 4]])
    zeros = ErrorStatistics(mean=0, median=0, p99=0, p999=0, max=0)
    assert found.absolute == found.relative == zeros
    assert found.kl_mean == found.kl_median == found.kl_p999 == found.kl_max == 0
    assert found.same_top == found.same_decided == found.top5_overlap == 1
    assert found.perplexity_ratio == found.perplexity_ratio_low == found.perplexity_ratio_high == 1
    assert found.perplexity_before == found.perplexity_after >= 1


@settings(max_examples=40, deadline=None)
@given(LOGITS, LOGITS, st.floats(-50, 50), st.floats(-50, 50))
def test_kl_knows_no_shift(before: Array, after: Array, one: float, other: float) -> None:
    """A constant added to a position's logits changes no probability."""
    exact = before.astype(np.float64), after.astype(np.float64)
    expected = kl_divergence(log_softmax(exact[0]), log_softmax(exact[1]))
    shifted = kl_divergence(log_softmax(exact[0] + one), log_softmax(exact[1] + other))
    np.testing.assert_allclose(shifted, expected, rtol=1e-9, atol=1e-9)
    assert (expected >= -1e-12).all(), "never negative"


@settings(max_examples=40, deadline=None)
@given(LOGITS, LOGITS, st.permutations(range(6)))
def test_the_order_of_the_vocabulary_does_not_matter(before: Array, after: Array, order: list[int]) -> None:
    found = compare(before[:, order], after[:, order], [[order.index(x)] for x in (0, 1, 2, 3, 4)])
    expected = compare(before, after, [[0], [1], [2], [3], [4]])
    assert found.kl_mean == pytest.approx(expected.kl_mean, rel=1e-9, abs=1e-12)
    # Sums over the vocabulary may be taken in another order; single differences may not change.
    assert found.absolute.max == expected.absolute.max
    assert found.absolute.median == expected.absolute.median
    assert found.absolute.mean == pytest.approx(expected.absolute.mean)
    assert found.cosine_mean == pytest.approx(expected.cosine_mean)


@given(LOGITS)
def test_probabilities_add_up(logits: Array) -> None:
    np.testing.assert_allclose(np.exp(log_softmax(logits)).sum(-1), 1)


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([[30000.0, -30000.0, 0.0]], np.float32)
    assert log_softmax(logits).tolist() == [[0, -60000, -30000]]


def test_errors_of_tokens() -> None:
    reference = np.array([[3, 4], [30, 40], [0, 0.005], [6, 8]], np.float32)  # lengths 5, 50, 0.005, 10
    difference = np.array([[0, 1], [0, 1], [0, 1], [0, 0]], np.float32)
    assert token_norms(reference).tolist() == pytest.approx([5, 50, 0.005, 10])
    # The median length is 7.5; shorter tokens count with it.
    assert token_errors(difference, reference).tolist() == pytest.approx([1 / 7.5, 1 / 50, 1 / 7.5, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_errors_that_are_no_numbers_are_infinite(bad: float) -> None:
    difference = np.array([[0, bad], [0, 1]], np.float32)
    found = token_errors(difference, np.ones((2, 2), np.float32))
    assert found[0] == np.inf and np.isfinite(found[1])
    assert root_mean_square(difference) == np.inf


def test_an_error_against_nothing() -> None:
    nothing = np.zeros((3, 2), np.float32)
    assert token_errors(nothing, nothing).tolist() == [0, 0, 0]
    assert (token_errors(nothing + 1, nothing) > 1e9).all()


def test_root_mean_square() -> None:
    assert root_mean_square(np.array([[3.0, -4.0], [0.0, 0.0]], np.float32)) == pytest.approx(2.5)
    assert root_mean_square(np.full(4, 1e30, np.float32)) == pytest.approx(1e30), "squares in float64"
