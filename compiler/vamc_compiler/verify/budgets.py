"""How much stages may differ: defaults for each precision, and what a figure is measured against.

The defaults are justified in docs/numerics.md from measurements on the demo checkpoints and on random models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from vamc_compiler.config.schema import BudgetConfig
from vamc_compiler.precision import ModelPrecision
from vamc_compiler.verify.blocks import BlockLimit
from vamc_compiler.verify.metrics import DECIDED_NATS
from vamc_compiler.verify.result import BlockError, BudgetLine, LogitMetrics

RMS_SHARE = 0.2
"""Limit on a block's RMS error over tokens, as a fraction of its max-error limit, where stages share weights.

A last bit that moves a cached value or an activation to the next level gives an error to a few tokens, a fault to all.
"""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The largest differences that count as right; see `config.schema.BudgetConfig`."""

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

    @property
    def modeling(self) -> BlockLimit:
        """Between the original and the modeling file with the checkpoint's weights."""
        return BlockLimit(self.modeling_error, RMS_SHARE * self.modeling_error)

    @property
    def rounding(self) -> BlockLimit:
        """Between the modeling file with the checkpoint's weights and with those that are stored."""
        return BlockLimit(self.rounding_error, self.rounding_rms_share * self.rounding_error)

    @property
    def exact(self) -> BlockLimit:
        """Between stages that compute in float32 with the same weights."""
        return BlockLimit(self.exact_error, RMS_SHARE * self.exact_error)

    @property
    def compiled(self) -> BlockLimit:
        """Between such a stage and compiled code."""
        return BlockLimit(self.block_error, RMS_SHARE * self.block_error)

    @property
    def end_to_end(self) -> BlockLimit:
        """Between the original and compiled code."""
        return BlockLimit(self.rounding.worst + self.compiled.worst, self.rounding.rms + self.compiled.rms)

    @property
    def decided_nats(self) -> float:
        """By how much a token has to lead where it must stay the likeliest.

        Errors of s nats in the logits give a KL of about s^2 / 2, and move a lead by about 1.4 s. Six times the s of
        half the allowed KL: what turns such a lead is no rounding.
        """
        return max(DECIDED_NATS, 6 * math.sqrt(self.mean_kl))

    def overridden(self, given: BudgetConfig) -> Budget:
        """With the bounds that a build config gives."""
        changes = {item.name: value for item in fields(given) if (value := getattr(given, item.name)) is not None}
        return replace(self, **changes)


# Two to three times what right builds were seen to need: benchmarks/results/false_alarms.md.
_FLOAT16 = Budget(
    mean_kl=2e-5,
    same_top=0.99,
    perplexity_ratio=1.002,
    rounding_error=6e-3,
    block_error=1e-3,
    exact_error=1e-3,
    rounding_rms_share=0.2,
    golden_tolerance=2e-3,
)
# Kernels round activations to bfloat16 too, in compiled code only.
_BFLOAT16 = Budget(
    mean_kl=2e-3,
    same_top=0.99,
    perplexity_ratio=1.02,
    rounding_error=2e-2,
    block_error=5e-2,
    exact_error=1e-3,
    rounding_rms_share=0.3,
    golden_tolerance=0.1,
)
_INT8 = Budget(
    mean_kl=5e-2,
    same_top=0.98,
    perplexity_ratio=1.04,
    rounding_error=0.4,
    block_error=1e-2,
    exact_error=1e-3,
    rounding_rms_share=0.35,
    golden_tolerance=0.01,
)
# Activations rounded to 8 bits: the last bit of a sum now and then moves one to the next of 127 levels.
_W8A8 = Budget(
    mean_kl=6e-2,
    same_top=0.97,
    perplexity_ratio=1.06,
    rounding_error=0.6,
    block_error=4e-2,
    exact_error=4e-2,
    rounding_rms_share=0.35,
    golden_tolerance=0.15,
)


def default_budget(precision: ModelPrecision, *, bfloat16_prefill: bool) -> Budget:
    """The bounds for what kernels compute in.

    Args:
        precision: of the weights.
        bfloat16_prefill: see `precision.multiplies_in_bfloat16`.
    """
    if precision.quantization == "w8a8_dynamic":
        return _W8A8
    if precision.quantization is not None:
        return _INT8
    return _BFLOAT16 if precision.unquantized == "bfloat16" or bfloat16_prefill else _FLOAT16


def logit_lines(metrics: LogitMetrics, budget: Budget) -> list[BudgetLine]:
    """What the logits of two stages must keep; of the perplexity ratio, the lower end of its 95 % interval."""
    return [
        BudgetLine(name="mean KL", value=metrics.kl_mean, limit=budget.mean_kl),
        BudgetLine(
            name="same top token where decided", value=metrics.same_decided, limit=budget.same_top, at_least=True
        ),
        # The part that is no chance: over few tokens the ratio itself is mostly noise.
        BudgetLine(name="perplexity ratio", value=metrics.perplexity_ratio_low, limit=budget.perplexity_ratio),
    ]


def block_lines(blocks: Sequence[BlockError], limit: BlockLimit) -> list[BudgetLine]:
    """What every block must keep by itself."""
    worst = [block.isolated for block in blocks if block.isolated is not None]
    rms = [block.isolated_rms for block in blocks if block.isolated_rms is not None]
    lines = [BudgetLine(name="largest block error", value=max(worst), limit=limit.worst)] if worst else []
    if rms and math.isfinite(limit.rms):
        lines.append(BudgetLine(name="largest block error, rms", value=max(rms), limit=limit.rms))
    return lines


def greedy_lines(metrics: LogitMetrics, budget: Budget) -> list[BudgetLine]:
    """What the tokens that a stage chose must keep: where the other is decided, the same choice."""
    return [
        BudgetLine(name="same token where decided", value=metrics.same_decided, limit=budget.same_top, at_least=True)
    ]
