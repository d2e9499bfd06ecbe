"""What a verification found, as plain data: the terminal, the report folder and the certificate all read it.

Errors are relative unless their name says otherwise. Stages are compared in pairs, `before` -> `after`: what `after`
computes is measured against what `before` computes on the same tokens.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FLOAT32_STAGE = "modeling file, float32"
"""The modeling file with the checkpoint's weights: what it computes before anything is rounded."""


@dataclass(frozen=True, kw_only=True)
class ErrorStatistics:
    """The distribution of an error over all values."""

    mean: float
    median: float
    p99: float
    """99 % of the values are below."""
    p999: float
    """99.9 % of the values are below."""
    max: float


@dataclass(frozen=True, kw_only=True)
class LogitMetrics:
    """How far the logits of `after` are from those of `before`."""

    num_positions: int
    absolute: ErrorStatistics
    """|after - before| of single logits."""
    relative: ErrorStatistics
    """The same, divided by the root mean square of the position's logits in `before`."""
    cosine_min: float
    """Smallest cosine of a position's two logit vectors."""
    cosine_mean: float
    kl_mean: float
    """KL(before || after) in nats, mean over positions."""
    kl_median: float
    kl_p999: float
    kl_max: float
    same_top: float
    """Share of positions with the same likeliest token."""
    same_decided: float
    """The same over the positions where the likeliest token of `before` leads by more than `Budget.decided_nats`; 1
    where none."""
    top5_overlap: float
    """Mean share of the five likeliest tokens of `before` that are among the five of `after`."""
    perplexity_before: float
    perplexity_after: float
    perplexity_ratio: float
    """after / before."""
    perplexity_ratio_low: float
    """Lower end of the ratio's 95 % confidence interval."""
    perplexity_ratio_high: float


@dataclass(frozen=True, kw_only=True)
class BlockError:
    """Error of what one residual block (attention, feed-forward, embedding) adds to the stream."""

    index: int
    """From 0, in the order of computation."""
    block: str
    """Name for people, for example `layer 3 attention`."""
    tap: str
    """Where it was measured: the module whose input is the stream after the block."""
    accumulated: float
    """Root mean square of the stream's difference, relative to that of the stream."""
    isolated: float | None
    """Largest over tokens: difference when the block is fed the stream of `before`, relative to the root mean square
    of what the block adds. None where it was not measured."""
    isolated_rms: float | None
    """The same, root mean square over tokens."""
    worst_token: int | None
    """Position of the token with the largest isolated error."""


@dataclass(frozen=True, kw_only=True)
class BudgetLine:
    """One figure and its bound."""

    name: str
    value: float
    limit: float
    at_least: bool = False
    """The limit is a lower one."""

    @property
    def passed(self) -> bool:
        """Whether the figure keeps within its bound; a NaN never does."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where it goes wrong first."""

    stage: str
    """The stage that is wrong, as named in the pair's `after`."""
    block: str = ""
    """`layer 3 attention`; empty when not narrowed down."""
    op: str = ""
    """`PagedAttention` or `Linear model.layers.0.self_attn.o_proj`; empty when not narrowed down."""
    ranks: tuple[int, ...] = ()
    """Ranks that are wrong; empty when all are, or there is one."""
    detail: str = ""
    """What was seen there."""

    def __str__(self) -> str:
        ranks = f"rank{'s' * (len(self.ranks) > 1)} {', '.join(map(str, self.ranks))}" if self.ranks else ""
        return ", ".join(part for part in (self.stage, self.block, self.op, ranks, self.detail) if part)


@dataclass(frozen=True, kw_only=True)
class WorstToken:
    """A position where two stages disagree most."""

    position: int
    context: str
    """Text up to the position, its end."""
    expected: str
    """Likeliest next token of `before`, as text."""
    found: str
    """Likeliest next token of `after`, as text."""
    actual: str
    """The token that follows in the text."""
    kl: float


@dataclass(frozen=True, kw_only=True)
class PairResult:
    """One comparison: a line of the report."""

    before: str
    after: str
    check: str
    """`prefill`, `chunked prefill`, `cached decode`, `weights` or `greedy tokens`."""
    budgets: tuple[BudgetLine, ...]
    metrics: LogitMetrics | None = None
    blocks: tuple[BlockError, ...] = ()
    kl: tuple[float, ...] = ()
    """KL at every position."""
    worst_tokens: tuple[WorstToken, ...] = ()
    location: Location | None = None
    """Where it goes wrong; None while within budget."""
    num_greedy_tokens: int | None = None
    """Tokens that `after` generated, the likeliest each time; None in other checks."""
    first_divergence: int | None = None
    """The first of them, from 0, that `before` would not have chosen; None when all are the same."""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every figure keeps within its bound."""
        return all(line.passed for line in self.budgets)

    @property
    def worst_block(self) -> BlockError | None:
        """The block with the largest isolated error, else accumulated."""
        known = [block for block in self.blocks if block.isolated is not None]
        if known:
            return max(known, key=lambda block: _size(block.isolated))
        return max(self.blocks, key=lambda block: _size(block.accumulated), default=None)


def _size(error: float | None) -> float:
    """An error as something to order by: what is no number is the worst."""
    return float("inf") if error is None or error != error else error


@dataclass(frozen=True, kw_only=True)
class TokenSource:
    """The tokens that every stage computed with."""

    description: str
    """For people: which text, or that there was none."""
    num_tokens: int
    digest: str
    """sha256 of the ids as little-endian int32."""


@dataclass(frozen=True, kw_only=True)
class VerificationReport:
    """Everything a verification found."""

    name: str
    """Of the build."""
    model: str
    """Model family, for people."""
    precision: str
    """The quantization scheme, else `backend.dtype`."""
    num_ranks: int
    tokens: TokenSource
    reference: str
    """What the original was; empty when there was none."""
    pairs: tuple[PairResult, ...]
    """In the order of the stages: the first that failed is where to look."""
    checkpoint_digest: str
    toolchain: Mapping[str, str]
    cpu: str
    library: str
    """mcpu of the library that ran."""
    date: str
    """ISO 8601, UTC."""
    seconds: float
    warnings: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every pair is within its budget; where nothing was compared, nothing is proved."""
        return bool(self.pairs) and all(pair.passed for pair in self.pairs)

    @property
    def first_failure(self) -> PairResult | None:
        """The first pair outside its budget."""
        return next((pair for pair in self.pairs if not pair.passed), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data with the verdicts that properties compute; what is not a number (NaN, infinity) is a text."""
        document = dataclasses.asdict(self)
        document["passed"] = self.passed
        for pair, entry in zip(self.pairs, document["pairs"], strict=True):
            entry["passed"] = pair.passed
            for line, row in zip(pair.budgets, entry["budgets"], strict=True):
                row["passed"] = line.passed
        result: dict[str, Any] = json.loads(json.dumps(document), parse_constant=str)
        return result
