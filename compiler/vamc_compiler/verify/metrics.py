"""Comparing two stages' values on the same tokens; everything in float64.

Dimension letters: t positions, v vocabulary, w columns of a tap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_compiler.verify.result import ErrorStatistics, LogitMetrics

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
DECIDED_NATS = 0.1
"""By how much a token leads when its position counts as decided: less is a toss-up that any rounding may turn."""
_CONFIDENCE = 1.96  # standard errors on each side of a 95 % confidence interval


def log_softmax(logits: Array) -> Float64:
    """Log probabilities [t, v]."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def kl_divergence(before: Float64, after: Float64) -> Float64:
    """KL(before || after) in nats [t], of log probabilities [t, v]."""
    return np.asarray((np.exp(before) * (before - after)).sum(-1))


def _statistics(errors: Array) -> ErrorStatistics:
    median, p99, p999 = np.quantile(errors, [0.5, 0.99, 0.999])
    return ErrorStatistics(
        mean=float(errors.mean()), median=float(median), p99=float(p99), p999=float(p999), max=float(errors.max())
    )


def _top(logits: Array, count: int) -> Array:
    """The ids of the largest logits [t, count], in no order."""
    return np.argpartition(logits, -count, axis=-1)[:, -count:]


def _top5_overlap(before: Array, after: Array) -> float:
    count = min(5, before.shape[-1])
    ours, theirs = _top(before, count), _top(after, count)
    return float((ours[:, :, None] == theirs[:, None, :]).any(-1).mean())


def _cosines(before: Float64, after: Float64) -> Float64:
    norms = np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
    return np.asarray((before * after).sum(-1) / np.maximum(norms, 1e-300))


def decided(log_probabilities: Float64, lead_nats: float = DECIDED_NATS) -> npt.NDArray[np.bool_]:
    """Which positions [t] have a token that leads by more than `lead_nats`."""
    best = np.partition(log_probabilities, -2, axis=-1)[:, -2:]
    return np.asarray(best[:, 1] - best[:, 0] > lead_nats)


def compare_logits(
    before: Sequence[Array],
    after: Sequence[Array],
    sequences: Sequence[Sequence[int]],
    decided_nats: float = DECIDED_NATS,
) -> tuple[LogitMetrics, Float64]:
    """Compare logits float32 [t, v] of every sequence; also gives the KL of every position.

    A position is decided where a token leads by more than `decided_nats`.
    The perplexity counts the tokens that follow within a sequence. Values that are no numbers make every figure one.
    """
    expected, found = np.concatenate(before).astype(np.float64), np.concatenate(after).astype(np.float64)
    ours, theirs = log_softmax(expected), log_softmax(found)
    kl = kl_divergence(ours, theirs)
    absolute = np.abs(found - expected)
    scale = np.sqrt((expected**2).mean(-1, keepdims=True))
    same = expected.argmax(-1) == found.argmax(-1)
    sure = decided(ours, decided_nats)
    losses = _losses(ours, theirs, sequences)
    gap = losses[1] - losses[0]
    spread = _CONFIDENCE * float(gap.std()) / max(1.0, np.sqrt(gap.size))
    cosines = _cosines(expected, found)
    return (
        LogitMetrics(
            num_positions=len(expected),
            absolute=_statistics(absolute),
            relative=_statistics(absolute / np.maximum(scale, 1e-300)),
            cosine_min=float(cosines.min()),
            cosine_mean=float(cosines.mean()),
            kl_mean=float(kl.mean()),
            kl_median=float(np.median(kl)),
            kl_p999=float(np.quantile(kl, 0.999)),
            kl_max=float(kl.max()),
            same_top=float(same.mean()) if np.isfinite(found).all() else 0.0,
            same_decided=_share(same, sure) if np.isfinite(found).all() else 0.0,
            top5_overlap=_top5_overlap(expected, found),
            perplexity_before=float(np.exp(losses[0].mean())),
            perplexity_after=float(np.exp(losses[1].mean())),
            perplexity_ratio=float(np.exp(gap.mean())),
            perplexity_ratio_low=float(np.exp(gap.mean() - spread)),
            perplexity_ratio_high=float(np.exp(gap.mean() + spread)),
        ),
        kl,
    )


def _share(same: Array, counted: Array) -> float:
    return float(same[counted].mean()) if counted.any() else 1.0


def _losses(ours: Float64, theirs: Float64, sequences: Sequence[Sequence[int]]) -> Float64:
    """Negative log likelihood of every token that follows another one: [2, tokens]."""
    rows: list[int] = []
    following: list[int] = []
    begin = 0
    for sequence in sequences:
        rows += range(begin, begin + len(sequence) - 1)
        following += sequence[1:]
        begin += len(sequence)
    if not rows:
        return np.zeros((2, 1))
    return np.stack([-ours[rows, following], -theirs[rows, following]])


def token_norms(values: Array) -> Float64:
    """Length of each row [t] of values [t, w]."""
    return np.asarray(np.linalg.norm(values.astype(np.float64), axis=-1))


def token_errors(difference: Array, reference: Array) -> Float64:
    """Relative error of every token [t]: length of its difference over the length of its reference.

    A token whose reference is shorter than the median counts with the median: trained models have tokens to which a
    block adds next to nothing, and others to which it adds thousands of times the usual.
    """
    lengths = token_norms(reference)
    scale = np.maximum(lengths, max(float(np.median(lengths)), 1e-30))
    errors = token_norms(difference) / scale
    return np.where(np.isfinite(errors), errors, np.inf)


def root_mean_square(values: Array) -> float:
    """sqrt(mean(x^2)); infinite when a value is no number."""
    result = float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))
    return result if np.isfinite(result) else float("inf")
