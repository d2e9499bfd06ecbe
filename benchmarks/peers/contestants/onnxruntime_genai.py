"""ONNX Runtime GenAI: its model builder with int8 MatMulNBits, then its generator's own greedy loop."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from contestants.command import run_command


class OnnxRuntimeGenAi:
    """One model of the builder's `precision`, activations quantized to int8 (accuracy level 4)."""

    can_batch = True

    def __init__(self, *, precision: str) -> None:
        self._precision = precision
        self._model: Any = None

    def prepare(self, checkpoint: Path, folder: Path) -> None:
        """Run the builder. The head of the last position only, as every other contestant computes."""
        run_command(
            *(sys.executable, "-m", "onnxruntime_genai.models.builder", "--execution_provider", "cpu"),
            *("--input", checkpoint, "--output", folder / "model", "--precision", self._precision),
            *("--cache_dir", folder / "cache"),
            *("--extra_options", "accuracy_level=4", "prune_lm_head=true", "hf_token=false"),
        )

    def open(self, folder: Path, num_threads: int) -> dict[str, str]:
        """Load with the thread count laid over the builder's settings."""
        import onnxruntime_genai as og

        config = og.Config(str(folder / "model"))
        session = {"intra_op_num_threads": num_threads, "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = og.Model(config)
        return {"version": f"onnxruntime-genai {og.__version__}", "activations": "int8 (accuracy level 4)"}

    def prefill(self, tokens: list[int]) -> tuple[float, int]:
        """Appending the prompt computes it; the first token is then chosen."""
        generator = self._generator([tokens], len(tokens) + 1)
        start = time.perf_counter()
        generator.append_tokens(np.array([tokens], np.int32))
        generator.generate_next_token()
        seconds = time.perf_counter() - start
        return seconds, int(generator.get_next_tokens()[0])

    def decode(self, prompts: list[list[int]], num_steps: int) -> list[float]:
        """Each call computes the token chosen before and chooses the next."""
        generator = self._generator(prompts, len(prompts[0]) + num_steps + 1)
        generator.append_tokens(np.array(prompts, np.int32))
        generator.generate_next_token()
        times = []
        for _ in range(num_steps):
            start = time.perf_counter()
            generator.generate_next_token()
            times.append(time.perf_counter() - start)
        return times

    def _generator(self, prompts: list[list[int]], num_tokens: int) -> Any:
        import onnxruntime_genai as og

        params = og.GeneratorParams(self._model)
        params.set_search_options(
            do_sample=False, batch_size=len(prompts), min_length=num_tokens, max_length=num_tokens
        )
        return og.Generator(self._model, params)
