"""CTranslate2: `ctranslate2.Generator`, its own greedy loop, timed by the callback that it makes for every token."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any


class CTranslate2:
    """One converted model, stored in `quantization` and computed in `compute_type`."""

    can_batch = True

    def __init__(self, *, quantization: str, compute_type: str) -> None:
        self._quantization, self._compute_type = quantization, compute_type
        self._generator: Any = None
        self._words: list[str] = []

    def prepare(self, checkpoint: Path, folder: Path) -> None:
        """Convert with the package's converter for transformers."""
        from ctranslate2.converters import TransformersConverter

        converter = TransformersConverter(str(checkpoint), load_as_float16=True, low_cpu_mem_usage=True)
        converter.convert(str(folder / "model"), quantization=self._quantization)

    def open(self, folder: Path, num_threads: int) -> dict[str, str]:
        """Load; `intra_threads` are its OpenMP threads."""
        import ctranslate2

        model = folder / "model"
        self._generator = ctranslate2.Generator(
            str(model), device="cpu", compute_type=self._compute_type, inter_threads=1, intra_threads=num_threads
        )
        self._words = json.loads((model / "vocabulary.json").read_text(encoding="utf-8"))
        return {"version": f"ctranslate2 {ctranslate2.__version__}", "computes in": self._generator.compute_type}

    def prefill(self, tokens: list[int]) -> tuple[float, int]:
        """The time to the first callback of a generation that ends with it."""
        start = time.perf_counter()
        (first,) = self._generate([tokens], 1)
        return first[0] - start, first[1]

    def decode(self, prompts: list[list[int]], num_steps: int) -> list[float]:
        """The times between callbacks; of a batch, the callbacks of its last prompt."""
        steps = self._generate(prompts, num_steps + 1)
        return [after - before for (before, _), (after, _) in pairwise(steps)]

    def _generate(self, prompts: list[list[int]], num_tokens: int) -> list[tuple[float, int]]:
        """Of each step, when its tokens were known (perf_counter seconds) and the token of the last prompt."""
        steps: list[tuple[float, int]] = []
        last = len(prompts) - 1

        def on_token(step: Any) -> bool:
            if step.batch_id == last:
                steps.append((time.perf_counter(), step.token_id))
            return False

        self._generator.generate_batch(
            [[self._words[token] for token in prompt] for prompt in prompts],
            include_prompt_in_result=False,  # the prompt goes through the model at once
            max_length=num_tokens,
            min_length=num_tokens,  # no end by an end-of-sequence token
            sampling_topk=1,
            callback=on_token,
        )
        if len(steps) != num_tokens:
            raise RuntimeError(f"CTranslate2 called back {len(steps)} times for {num_tokens} tokens")
        return steps
