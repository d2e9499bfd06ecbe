"""What is measured: prefills of given lengths, decode steps of given batch sizes and contexts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vamc_runtime.errors import UserError
from vamc_runtime.executor import StepArguments
from vamc_runtime.manifest import Limits, Manifest

Phase = Literal["prefill", "decode"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the result."""

    phase: Phase
    batch: int
    """Sequences."""
    context: int
    """Tokens of each sequence, all in the cache afterwards: a prefill computes all of them, a decode step the last."""

    @property
    def num_tokens(self) -> int:
        """Tokens that are computed."""
        return self.context if self.phase == "prefill" else self.batch

    @property
    def num_pairs(self) -> int:
        """Pairs of a query token and a token that it looks at, itself included."""
        return self.context * (self.context + 1) // 2 if self.phase == "prefill" else self.batch * self.context

    def num_pages(self, page_tokens: int) -> int:
        """Cache pages of all sequences."""
        return self.batch * -(-self.context // page_tokens)

    def __str__(self) -> str:
        return f"prefill {self.context}" if self.phase == "prefill" else f"decode {self.batch} x {self.context}"

    def steps(self, manifest: Manifest, ids: np.random.Generator) -> list[StepArguments]:
        """The steps that compute it: several where a prefill is longer than a step; with random token ids."""
        page_tokens, longest = manifest.kv_cache.page_tokens, manifest.limits.max_prefill_tokens
        pages = self.num_pages(page_tokens) // self.batch
        table = np.arange(self.batch * pages, dtype=np.int32).reshape(self.batch, pages)
        if self.phase == "decode":
            positions = np.full(self.batch, self.context - 1, np.int32)
            return [_step(manifest, ids, positions, np.arange(self.batch, dtype=np.int32), table, self.batch)]
        steps = []
        for begin in range(0, self.context, longest):
            positions = np.arange(begin, min(begin + longest, self.context), dtype=np.int32)
            used = table[:, : -(-(int(positions[-1]) + 1) // page_tokens)]
            steps.append(_step(manifest, ids, positions, np.zeros_like(positions), used, 1))
        return steps


def _step(
    manifest: Manifest, ids: np.random.Generator, positions: object, rows: object, table: object, num_logits: int
) -> StepArguments:
    """A step whose last `num_logits` tokens are sampled."""
    positions, rows = np.asarray(positions, np.int32), np.asarray(rows, np.int32)
    return StepArguments(
        ids.integers(0, manifest.model.vocab_size, positions.size).astype(np.int32),
        positions,
        rows,
        np.ascontiguousarray(table, np.int32),
        np.arange(positions.size - num_logits, positions.size, dtype=np.int32),
    )


def make_cases(
    limits: Limits,
    prefill: Sequence[int] | None,
    decode_batch: Sequence[int] | None,
    context: Sequence[int] | None,
) -> list[Case]:
    """The cases of the command line; what is None gets a default within the limits, what is empty gets no case.

    Raises:
        UserError: a length beyond what the runstream was compiled for, or nothing to measure.
    """
    prefill = (min(512, limits.max_context_tokens),) if prefill is None else prefill
    batches = (1,) if decode_batch is None else decode_batch
    context = (min(128, limits.max_context_tokens),) if context is None else context
    longest, widest = limits.max_context_tokens, limits.max_prefill_tokens
    for option, numbers, limit, what in (
        ("--prefill", prefill, longest, "the context of the runstream, C of frontend.shape.input_ids"),
        ("--context", context, longest, "the context of the runstream, C of frontend.shape.input_ids"),
        ("--decode-batch", batches, widest, "the tokens of a step, P of frontend.shape.input_ids"),
    ):
        too_large = [number for number in numbers if number > limit]
        if too_large:
            raise UserError(
                f"{option} {too_large[0]} is more than the runstream was compiled for",
                expected=f"at most {limit}: {what}",
                fix="measure less, or compile with larger lengths",
            )
    cases = [Case(phase="prefill", batch=1, context=length) for length in prefill]
    pairs = itertools.product(batches, context)
    cases += [Case(phase="decode", batch=batch, context=length) for batch, length in pairs]
    if not cases:
        raise UserError("nothing to measure", fix="give --prefill, or --decode-batch and --context")
    return cases
