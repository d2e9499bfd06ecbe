"""llama.cpp through the low-level bindings of llama-cpp-python: `llama_decode` and llama.cpp's own greedy sampler.

The high-level `Llama` class copies logits and detokenizes; none of that is called here. What Python adds is a few
microseconds a step. Batch and micro-batch are 512 tokens and flash attention is `auto`, as in `llama-bench`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from contestants.command import run_command
from contestants.interface import MAX_BATCH, MAX_CONTEXT_TOKENS

BATCH_TOKENS = 512
SOURCES = Path(sys.prefix) / "src"
"""Where install.py put the bindings and the build."""


class LlamaCpp:
    """One GGUF file with weights of `type_name`, a type of its converter (f16, q8_0)."""

    can_batch = True

    def __init__(self, *, type_name: str) -> None:
        self._type_name = type_name
        self._api: Any = None
        self._context: Any = None
        self._sampler: Any = None
        self._batch: Any = None
        self._model: Any = None

    def prepare(self, checkpoint: Path, folder: Path) -> None:
        """Run llama.cpp's converter, which quantizes too."""
        script = SOURCES / "bindings" / "vendor" / "llama.cpp" / "convert_hf_to_gguf.py"
        output = folder / "model.gguf"
        run_command(sys.executable, script, checkpoint, "--outtype", self._type_name, "--outfile", output)

    def open(self, folder: Path, num_threads: int) -> dict[str, str]:
        """Load with the defaults of llama-bench."""
        os.environ["LLAMA_CPP_LIB_PATH"] = str(SOURCES / "build" / "bin")
        import llama_cpp

        self._api = llama_cpp.llama_cpp
        self._api.llama_backend_init()
        path = str(folder / "model.gguf").encode()
        self._model = self._api.llama_model_load_from_file(path, self._api.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {folder / 'model.gguf'}; its message stands above")
        settings = self._api.llama_context_default_params()
        settings.n_ctx = MAX_CONTEXT_TOKENS
        settings.n_batch = settings.n_ubatch = BATCH_TOKENS
        settings.n_seq_max = MAX_BATCH
        settings.kv_unified = True  # one cache for all sequences: a single one may use all of it
        settings.n_threads = settings.n_threads_batch = num_threads
        self._context = self._api.llama_init_from_model(self._model, settings)
        if not self._context:
            raise RuntimeError("llama.cpp cannot make a context; its message stands above")
        self._sampler = self._api.llama_sampler_init_greedy()
        self._batch = self._api.llama_batch_init(BATCH_TOKENS, 0, 1)
        features = self._api.llama_print_system_info().decode()
        return {"version": f"llama-cpp-python {llama_cpp.__version__}", "built with": features.strip()}

    def prefill(self, tokens: list[int]) -> tuple[float, int]:
        """One batch with logits of its last position."""
        self._clear()
        start = time.perf_counter()
        rows = [(token, position, 0) for position, token in enumerate(tokens)]
        (chosen,) = self._step(rows, {len(tokens) - 1})
        return time.perf_counter() - start, chosen

    def decode(self, prompts: list[list[int]], num_steps: int) -> list[float]:
        """Batches of one position of every sequence."""
        self._clear()
        length, times = len(prompts[0]), []
        rows = [(token, at, line) for line, prompt in enumerate(prompts) for at, token in enumerate(prompt)]
        chosen = self._step(rows, {(line + 1) * length - 1 for line in range(len(prompts))})
        for position in range(length, length + num_steps):
            start = time.perf_counter()
            rows = [(token, position, line) for line, token in enumerate(chosen)]
            chosen = self._step(rows, set(range(len(rows))))
            times.append(time.perf_counter() - start)
        return times

    def _clear(self) -> None:
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)

    def _step(self, rows: list[tuple[int, int, int]], wanted: set[int]) -> list[int]:
        """Compute rows of (token, position, sequence); returns the next token after each row in `wanted`."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for index, (token, position, line) in enumerate(rows):
            batch.token[index] = token
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = line
            batch.logits[index] = index in wanted
        code = self._api.llama_decode(self._context, batch)
        if code:
            raise RuntimeError(f"llama_decode returned {code} for {len(rows)} tokens")
        return [self._api.llama_sampler_sample(self._sampler, self._context, index) for index in sorted(wanted)]
