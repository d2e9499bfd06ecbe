"""vamc itself: `vamc compile` as a user runs it, then `LLM.stream` as a user runs it, timed piece by piece.

The stream includes the scheduler, the sampler and the text of every token, which peers are not asked for.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

from contestants.command import run_command
from contestants.interface import MAX_BATCH, MAX_CONTEXT_TOKENS

PREFILL_TOKENS = 512
"""Most prompt tokens in one step of the compiled model."""
NAME = "runstream"


class Vamc:
    """One runstream; `frontend` and `backend` are sections of its build config, as in docs/configuration.md."""

    can_batch = True

    def __init__(self, *, frontend: dict[str, Any], backend: dict[str, Any]) -> None:
        self._frontend, self._backend = frontend, backend
        self._stack = ExitStack()
        self._llm: Any = None

    def prepare(self, checkpoint: Path, folder: Path) -> None:
        """Write a build config and compile it for this CPU."""
        shape = {"input_ids": [[PREFILL_TOKENS], [MAX_CONTEXT_TOKENS]]}
        config = {
            "name": NAME,
            "frontend": {"type": "huggingface", "checkpoint": str(checkpoint), "shape": shape, **self._frontend},
            "backend": self._backend,
            "workspace": {"path": str(folder), "workers": 1},
        }
        file = folder / "build.yaml"
        file.write_text(json.dumps(config, indent=1), encoding="utf-8")  # JSON is YAML too
        # Random weights: how well they round says nothing.
        run_command(Path(sys.executable).parent / "vamc", "compile", file, "--set", "verify.when=off")

    def open(self, folder: Path, num_threads: int) -> dict[str, str]:
        """Open the runstream; compiled code takes one thread for each core that this process may use."""
        if len(os.sched_getaffinity(0)) != num_threads:
            raise RuntimeError(f"vamc runs on every allowed core, {len(os.sched_getaffinity(0))}, not {num_threads}")
        import importlib.metadata

        from vamc_runtime.engine import LLM

        tokens = MAX_BATCH * MAX_CONTEXT_TOKENS
        self._llm = self._stack.enter_context(LLM(folder / NAME, kv_cache_tokens=tokens))
        return {"version": f"vamc {importlib.metadata.version('vamc')}", "built with": json.dumps(self._backend)}

    def prefill(self, tokens: list[int]) -> tuple[float, int]:
        """The time to the first piece of a stream that ends with it."""
        start = time.perf_counter()
        (first,) = self._generate([tokens], 1)
        return first[0] - start, first[1]

    def decode(self, prompts: list[list[int]], num_steps: int) -> list[float]:
        """The times between pieces; of a batch, the pieces of its last prompt."""
        steps = self._generate(prompts, num_steps + 1)
        return [after - before for (before, _), (after, _) in pairwise(steps)]

    def _generate(self, prompts: list[list[int]], num_tokens: int) -> list[tuple[float, int]]:
        """Of each step, when its tokens were known (perf_counter seconds) and the token of the last prompt."""
        from vamc_runtime.sampling import SamplingParams

        params = SamplingParams(max_new_tokens=num_tokens, ignore_eos=True)
        last = len(prompts) - 1
        stream = self._llm.stream(prompts, params)
        steps = [(time.perf_counter(), piece.token_ids[0]) for piece in stream if piece.index == last]
        if len(steps) != num_tokens:
            raise RuntimeError(f"vamc streamed {len(steps)} tokens of {num_tokens}")
        return steps
