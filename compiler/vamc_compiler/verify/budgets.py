"""How much stages may differ: defaults for each precision, and what a figure is measured against.

The defaults are justified in docs/numerics.md from measurements on the demo checkpoints and on random models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from vamc_compiler.config.schema import BudgetConfig
from vamc_compiler.precision import ModelPrecision
from vamc_compiler.quantization import BFLOAT16_BOUNDS, FLOAT16_BOUNDS, Bounds
from vamc_compiler.verify.blocks import BlockLimit
from vamc_compiler.verify.metrics import DECIDED_NATS
from vamc_compiler.verify.result import BlockError, BudgetLine, LogitMetrics

RMS_SHARE = 0.2
"""Limit on a block's RMS error over tokens, as a fraction of its max-error limit, where stages share weights.

A last bit that moves a cached value or an activation to the next level gives an error to a few tokens, a fault to all.
"""


@dataclass(frozen=True, kw_only=True)
class Budget(Bounds):
    """The bounds of one build: those of its precision, or what its config says."""

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


def default_budget(precision: ModelPrecision, *, bfloat16_prefill: bool) -> Budget:
    """The bounds for what kernels compute in.

    Args:
        precision: of the weights.
        bfloat16_prefill: see `precision.multiplies_in_bfloat16`.
    """
    if precision.scheme is not None:
        bounds = precision.scheme.bounds
        assert bounds is not None, f"{precision.scheme.name} is built, and its right builds were measured"
    else:
        in_bfloat16 = precision.unquantized == "bfloat16" or bfloat16_prefill
        bounds = BFLOAT16_BOUNDS if in_bfloat16 else FLOAT16_BOUNDS
    return Budget(**vars(bounds))


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
