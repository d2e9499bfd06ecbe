"""Comparing two models' logits on the same tokens; everything in float64.

Dimension letters: t positions, v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[Any]


def log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """log probabilities [t, v]."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


@dataclass(frozen=True)
class Comparison:
    """How far a model is from its reference."""

    mean_kl: float
    """Mean over positions of KL(reference || model), in nats."""
    same_top: float
    """Share of positions with the same likeliest token."""
    perplexity_ratio: float
    """exp of the difference of the mean negative log likelihoods of the next token."""
    max_difference: float
    """Largest difference of two logits."""


def compare(reference: Logits, model: Logits, token_ids: list[int]) -> Comparison:
    """Compare logits [t, v] at the t positions of `token_ids`."""
    expected, found = log_softmax(reference), log_softmax(model)
    kl = (np.exp(expected) * (expected - found)).sum(-1)
    following = np.array(token_ids[1:])
    rows = np.arange(len(following))
    gap = expected[rows, following] - found[rows, following]
    return Comparison(
        mean_kl=float(kl.mean()),
        same_top=float((reference.argmax(-1) == model.argmax(-1)).mean()),
        perplexity_ratio=float(np.exp(gap.mean())),
        max_difference=float(np.abs(reference.astype(np.float64) - model).max()),
    )
