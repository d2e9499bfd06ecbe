"""How much may differ between what a scheme computes and what the original does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The largest differences that count as right; what they bound is in `config.schema.BudgetConfig`.

    Two to three times what right builds were seen to need: benchmarks/results/false_alarms.md.
    """

    mean_kl: float
    same_top: float
    perplexity_ratio: float
    modeling_error: float = 5e-4
    """Largest error of one block between the original and the modeling file, both in float32: of any precision."""
    rounding_error: float
    block_error: float
    exact_error: float
    """Largest error of one block between two stages that compute in float32 with the same weights."""
    rounding_rms_share: float
    """Limit on a block's RMS error over tokens, as a fraction of `rounding_error`, where one stage rounds weights."""
    golden_tolerance: float
    """Largest mean difference of log-probabilities, in nats, that a self-test on another CPU may find."""
