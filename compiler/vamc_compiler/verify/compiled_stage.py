"""The compiled model: a runstream's own library and weights, on one rank or several."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType

import numpy as np

from vamc_compiler.verify.instrument import TapSteps
from vamc_compiler.verify.run import Array, Run, TapValue
from vamc_compiler.verify.steps import count_pages, decode_chunks, plan_steps
from vamc_compiler.verify.taps import TapPlan
from vamc_runtime.executor import Ranks, StepArguments
from vamc_runtime.ranks.open import open_executor
from vamc_runtime.ranks.options import RankOptions
from vamc_runtime.runstream import Runstream


class CompiledStage:
    """A runstream, opened as the runtime opens it. Use as a context manager, from one thread.

    Args:
        name: for people.
        runstream: checked by the caller.
        plan: taps of its graph.
        max_tokens: longest sequence that will be run.
    """

    def __init__(self, name: str, runstream: Runstream, plan: TapPlan, *, max_tokens: int) -> None:
        self.name = name
        self._runstream = runstream
        self._plan = plan
        self._num_pages = count_pages(max_tokens, runstream.manifest.kv_cache.page_tokens)
        self._stack = contextlib.ExitStack()
        self._ranks: Ranks | None = None

    def __enter__(self) -> CompiledStage:
        # Mapped: memory that the system can take back, while a build or other stages need theirs.
        options = RankOptions(num_pages=self._num_pages, verify_hash=True, huge_pages="off")
        self._ranks = self._stack.enter_context(open_executor(self._runstream, options))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ranks = None
        self._stack.close()

    def run(
        self, steps: Sequence[StepArguments], taps: Collection[str] = (), forced: Mapping[str, Array] | None = None
    ) -> Run:
        """See `Stage.run`. Taps between a layer and the kernel that quantizes for the next are left out."""
        assert self._ranks is not None, "a compiled stage is a context manager"
        task = TapSteps(
            steps=tuple(steps),
            readers=self._plan.readers,
            attention=self._plan.attention,
            wanted=frozenset(taps),
            forced=dict(forced or {}),
        )
        results = self._ranks.on_every_rank(task)
        logits = results[0][0]
        found = {}
        for name in self._plan.taps:
            parts = [taken[name] for _, taken in results if name in taken]
            if len(parts) == len(results):
                columns = self._plan.taps[name].columns
                # Where every rank has the whole, rank 0's stands for all: a difference between them shows downstream.
                found[name] = TapValue(tuple(parts) if columns is not None else (parts[0],), columns)
        return Run(logits, found, self._plan.logit_columns)

    def greedy(self, prompt: Sequence[int], num_tokens: int) -> tuple[list[int], Array]:
        """The likeliest continuation of a prompt, token by token as a server computes it.

        Returns:
            `num_tokens` token ids, and the logits [num_tokens, v] that chose them.
        """
        assert self._ranks is not None, "a compiled stage is a context manager"
        limit, page_tokens = self._runstream.manifest.limits, self._runstream.manifest.kv_cache.page_tokens
        ids, rows = list(prompt), []
        # The page table is that of the longest sequence from the start.
        total = [*prompt, *[0] * (num_tokens - 1)]
        chunks = decode_chunks(len(total), num_tokens - 1, limit.max_prefill_tokens)
        for step in plan_steps(total, chunks, page_tokens):
            last = int(step.position_ids[-1])
            step.input_ids[:] = ids[int(step.position_ids[0]) : last + 1]
            logits = self._ranks.step(step)
            if last + 1 >= len(prompt):
                rows.append(logits[-1])
                ids.append(int(logits[-1].argmax()))
        return ids[len(prompt) :], np.stack(rows)
