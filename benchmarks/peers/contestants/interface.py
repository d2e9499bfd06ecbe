"""What the benchmark asks of every program, and what the two times mean.

Both include choosing the next token greedily, and nothing that turns tokens into text:

- prefill: from handing over a prompt, with an empty cache, until the first output token is known;
- decode: from one output token being known until the next one is, for all prompts of a batch together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

MAX_CONTEXT_TOKENS = 1024
"""Every contestant reserves a KV cache of this size where it has to know one."""
MAX_BATCH = 8
"""Largest number of prompts that `decode` is called with."""


class Contestant(Protocol):
    """A program with one precision. Runs in a worker process of its own."""

    can_batch: bool
    """Whether `decode` takes more than one prompt."""

    def prepare(self, checkpoint: Path, folder: Path) -> None:
        """Convert a Hugging Face checkpoint into the program's own files below `folder`, which exists."""

    def open(self, folder: Path, num_threads: int) -> dict[str, str]:
        """Load what `prepare` wrote; returns facts for the report: version, and what it computes in."""

    def prefill(self, tokens: list[int]) -> tuple[float, int]:
        """Seconds of prefill of one prompt, and the token that it chose, which shows whether it computed the model."""

    def decode(self, prompts: list[list[int]], num_steps: int) -> list[float]:
        """Seconds of each of `num_steps` decode steps after prompts of equal length."""
