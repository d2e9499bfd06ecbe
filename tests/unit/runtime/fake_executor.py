"""A deterministic "model" behind the interface of an executor, for tests of what drives one.

Its cache holds tokens where a real one holds keys and values. The logits of a row depend on every token of its
sequence, in order, read back from the cache through the page table: a token at a wrong position, in a wrong page, of
another sequence, or left over from an earlier one changes them.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from vamc_runtime.executor import StepArguments
from vamc_runtime.manifest import Manifest

EMPTY = -1


def model_logits(tokens: npt.NDArray[np.int32], vocab_size: int) -> npt.NDArray[np.float32]:
    """Logits float32 [vocab] after a sequence of tokens."""
    seed = zlib.crc32(np.ascontiguousarray(tokens, np.int32).tobytes())
    return np.random.default_rng(seed).standard_normal(vocab_size).astype(np.float32)


class FakeExecutor:
    """Computes steps of the fake model and checks what every real executor relies on."""

    def __init__(self, manifest: Manifest, num_pages: int) -> None:
        self.manifest = manifest
        self.num_steps = 0
        self.num_tokens: list[int] = []
        """Tokens of each step."""
        self.fail_at: int | None = None
        """The step, counted from 0, that fails."""
        self.cache = np.full((num_pages, manifest.kv_cache.page_tokens), EMPTY, np.int32)

    def step(self, arguments: StepArguments) -> npt.NDArray[np.float32]:
        """See `vamc_runtime.executor.Executor`."""
        if self.num_steps == self.fail_at:
            raise OSError("the step failed")
        self.num_steps += 1
        self._check(arguments)
        input_ids, positions, seq_ids, page_table, logits_index = arguments
        self.num_tokens.append(input_ids.size)
        page_tokens = self.manifest.kv_cache.page_tokens
        pages, slots = page_table[seq_ids, positions // page_tokens], positions % page_tokens
        assert len(set(zip(pages.tolist(), slots.tolist(), strict=True))) == input_ids.size, (
            "two tokens of a step go to one place of the cache"
        )
        self.cache[pages, slots] = input_ids
        rows = []
        for index in logits_index:
            tokens = self.cache[page_table[seq_ids[index]]].reshape(-1)[: positions[index] + 1]
            assert EMPTY not in tokens, "a token before this one was never computed"
            rows.append(model_logits(tokens, self.manifest.model.vocab_size))
        return np.stack(rows)

    def _check(self, arguments: StepArguments) -> None:
        for name, array in arguments._asdict().items():
            assert array.dtype == np.int32, f"{name} is {array.dtype}"
        num_tokens = arguments.input_ids.size
        assert 1 <= num_tokens <= self.manifest.limits.max_prefill_tokens
        assert arguments.input_ids.shape == arguments.position_ids.shape == arguments.seq_ids.shape
        assert arguments.input_ids.min() >= 0
        assert arguments.input_ids.max() < self.manifest.model.vocab_size
        assert arguments.position_ids.max() < self.manifest.limits.max_context_tokens
        assert arguments.page_table.min() >= 0 and arguments.page_table.max() < len(self.cache)
        assert arguments.logits_index.size >= 1
        assert arguments.logits_index.min() >= 0 and arguments.logits_index.max() < num_tokens
