"""Decides what each step computes; touches no tensor of the model and no clock.

Pages for a request's prompt and longest output are reserved before it starts, first come first served,
so a running request never has to give pages back, and none overtakes the head of the queue.
Dimensions: n tokens of the step, b sequences in it, p pages per sequence, m rows of logits.
"""

from __future__ import annotations

import collections.abc
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vamc_runtime.errors import UserError
from vamc_runtime.kv_pages import PageAllocator
from vamc_runtime.sequence import FinishReason, Sequence


@dataclass(frozen=True, kw_only=True, eq=False)
class StepPlan:
    """The arguments of one compiled step, all int32, and what to do with its answer."""

    input_ids: NDArray[np.int32]
    """[n]: the tokens."""
    position_ids: NDArray[np.int32]
    """[n]: position of each token in its sequence, from 0."""
    seq_ids: NDArray[np.int32]
    """[n]: row of page_table that belongs to each token."""
    page_table: NDArray[np.int32]
    """[b, p]: pages of each sequence in token order, as many as it uses after this step; the rest is 0."""
    logits_index: NDArray[np.int32]
    """[m]: index into n of the last token of each sequence in `wants_sample`, in that order. Where none wants
    one, it still has one entry, because the compiled step needs m >= 1: ignore that row."""
    sequences: tuple[Sequence, ...]
    """[b]: the sequence of each row."""
    num_new_tokens: tuple[int, ...]
    """[b]: tokens of each sequence in this step."""
    wants_sample: tuple[Sequence, ...]
    """Sequences to sample a token for: those that decode or finish their prefill."""
    num_prefill_tokens: int
    """Prompt tokens among n."""
    num_decode_tokens: int
    """Generated tokens among n."""


class Scheduler:
    """Queues requests, forms steps of them and keeps their pages. Call plan and complete in turns.

    Args:
        allocator: the pool of KV pages; its sequences are this scheduler's alone.
        page_tokens: tokens in one page.
        max_step_tokens: most tokens in one step (P).
        max_context_tokens: most tokens of prompt and output together (C).
    """

    def __init__(
        self, allocator: PageAllocator, *, page_tokens: int, max_step_tokens: int, max_context_tokens: int
    ) -> None:
        assert page_tokens >= 1 and max_step_tokens >= 1, "a page and a step hold at least one token"
        self._allocator = allocator
        self._page_tokens = page_tokens
        self._max_step_tokens = max_step_tokens
        self._max_context_tokens = max_context_tokens
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # in order of arrival
        self._plan: StepPlan | None = None  # planned and not completed yet

    @property
    def num_waiting(self) -> int:
        """Requests that have no pages yet."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests that have pages."""
        return len(self._running)

    def add(self, sequence: Sequence) -> None:
        """Queues a request whose prompt passed `check_prompt`.

        Raises:
            UserError: it needs more pages than the whole pool has.
        """
        num_prompt = len(sequence.prompt_ids)
        max_tokens = min(num_prompt + sequence.params.max_output_tokens(num_prompt), self._max_context_tokens)
        assert 0 < num_prompt < max_tokens, f"prompt of {num_prompt} tokens: was check_prompt called?"
        assert sequence.num_computed == 0 and not sequence.pages, "the sequence was scheduled before"
        num_pages = -(-max_tokens // self._page_tokens)
        if num_pages > self._allocator.num_pages:
            raise UserError(
                f"the request needs {num_pages} KV pages for {max_tokens} tokens of prompt and output",
                expected=f"at most {self._allocator.num_pages} pages of {self._page_tokens} tokens",
                fix="ask for fewer new tokens, shorten the prompt, or give the KV cache more memory",
            )
        sequence.max_tokens = max_tokens
        self._waiting.append(sequence)

    def plan(self) -> StepPlan | None:
        """The next step; None when there is nothing to do."""
        assert self._plan is None, "plan() before the last plan was completed"
        self._admit()
        # Never more than P of them: each came out of a prefill that found a token left in the budget.
        chosen = [(sequence, 1) for sequence in self._running if not sequence.is_prefilling]
        budget = self._max_step_tokens - len(chosen)
        for sequence in self._running:
            if sequence.is_prefilling and budget:
                num_tokens = min(budget, len(sequence.prompt_ids) - sequence.num_computed)
                chosen.append((sequence, num_tokens))
                budget -= num_tokens
        self._plan = self._build(chosen) if chosen else None
        return self._plan

    def complete(self, plan: StepPlan, tokens: collections.abc.Sequence[int]) -> list[Sequence]:
        """Records that a step was computed.

        Args:
            plan: the one `plan()` gave last.
            tokens: one sampled token for each of `plan.wants_sample`.

        Returns:
            The sequences that finished by it; their pages are free again.
        """
        assert plan is self._plan, "complete() of another plan than the last one"
        assert len(tokens) == len(plan.wants_sample), f"{len(tokens)} tokens for {len(plan.wants_sample)} sequences"
        self._plan = None
        for sequence, num_tokens in zip(plan.sequences, plan.num_new_tokens, strict=True):
            sequence.num_computed += num_tokens
        finished: list[Sequence] = []
        for sequence, token in zip(plan.wants_sample, tokens, strict=True):
            if sequence.finish_reason is not None:  # cancelled while the step ran
                continue
            sequence.append(token)
            if sequence.finish_reason is not None:
                self._release(sequence)
                finished.append(sequence)
        return finished

    def finish(self, sequence: Sequence, reason: FinishReason = "stop") -> None:
        """Ends a request early: a stop text was found, or the client left. No effect on a finished one."""
        if sequence.finish_reason is None:
            sequence.finish_reason = reason
            self._release(sequence)

    def _admit(self) -> None:
        """Gives pages to waiting requests in order of arrival."""
        while self._waiting:
            num_pages = -(-self._waiting[0].max_tokens // self._page_tokens)
            if num_pages > self._allocator.num_free:
                return
            sequence = self._waiting.popleft()
            sequence.pages = self._allocator.allocate(num_pages)
            self._running.append(sequence)

    def _release(self, sequence: Sequence) -> None:
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
        self._allocator.free(sequence.pages)
        sequence.pages = []

    def _build(self, chosen: list[tuple[Sequence, int]]) -> StepPlan:
        """The arrays of a step that computes so many tokens of each of these sequences."""
        counts = [num_tokens for _, num_tokens in chosen]
        starts = [sequence.num_computed for sequence, _ in chosen]
        used = [-(-(start + count) // self._page_tokens) for start, count in zip(starts, counts, strict=True)]
        page_table = np.zeros((len(chosen), max(used)), np.int32)
        for row, (sequence, _) in enumerate(chosen):
            page_table[row, : used[row]] = sequence.pages[: used[row]]
        input_ids = [token for sequence, count in chosen for token in sequence.next_ids(count)]
        positions = [np.arange(start, start + count) for start, count in zip(starts, counts, strict=True)]
        last_index = np.cumsum(counts) - 1
        # All tokens known so far are computed after this step: what comes next has to be sampled.
        rows = [i for i, (sequence, count) in enumerate(chosen) if starts[i] + count == sequence.num_tokens]
        return StepPlan(
            input_ids=np.array(input_ids, np.int32),
            position_ids=np.concatenate(positions).astype(np.int32),
            seq_ids=np.repeat(np.arange(len(chosen), dtype=np.int32), counts),
            page_table=page_table,
            logits_index=last_index[rows or [-1]].astype(np.int32),
            sequences=tuple(sequence for sequence, _ in chosen),
            num_new_tokens=tuple(counts),
            wants_sample=tuple(chosen[row][0] for row in rows),
            num_prefill_tokens=sum(count for sequence, count in chosen if sequence.is_prefilling),
            num_decode_tokens=sum(count for sequence, count in chosen if not sequence.is_prefilling),
        )
