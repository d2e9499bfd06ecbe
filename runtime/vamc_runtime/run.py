"""`vamc run`: prompts from the command line, text as it is generated, speed at the end."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TextIO

from vamc_runtime.console import print_json
from vamc_runtime.engine import LLM, Prompt
from vamc_runtime.errors import UserError
from vamc_runtime.load_progress import LoadProgress
from vamc_runtime.printable import printable
from vamc_runtime.ranks.open import failing_together
from vamc_runtime.sampling import SamplingParams
from vamc_runtime.text.chat import Message


class OrderedOutput:
    """Writes the outputs of several prompts one after the other while all are generated at once.

    The first unfinished output is written as it comes; later ones wait until it is their turn. A terminal shows control
    characters written out (a model may have learnt them, or be made to say them); a file or a pipe gets every byte.
    """

    def __init__(self, prompts: list[str], stream: TextIO) -> None:
        self._prompts = prompts
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._waiting = [""] * len(prompts)
        self._finished = [False] * len(prompts)
        self._current = 0
        self._begin()

    def _begin(self) -> None:
        if len(self._prompts) > 1:
            shown = " ".join(self._prompts[self._current].split())
            self._write(f"[{self._current + 1}/{len(self._prompts)}] {shown}\n")

    def _write(self, text: str) -> None:
        self._stream.write(printable(text.replace("\r\n", "\n")) if self._is_terminal else text)
        self._stream.flush()

    def push(self, index: int, text: str, finished: bool) -> None:
        """Add text to the output of a prompt."""
        self._waiting[index] += text
        self._finished[index] = self._finished[index] or finished
        while self._current < len(self._prompts):
            self._write(self._waiting[self._current])
            self._waiting[self._current] = ""
            if not self._finished[self._current]:
                return
            self._write("\n")
            self._current += 1
            if self._current < len(self._prompts):
                self._begin()


def _sampling(llm: LLM, options: argparse.Namespace) -> SamplingParams:
    """The checkpoint's generation settings, with what the command line gives."""
    return llm.default_sampling(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        repetition_penalty=options.repetition_penalty,
        seed=options.seed,
        stop=tuple(options.stop) or None,
        ignore_eos=options.ignore_eos,
    )


def _encode(llm: LLM, options: argparse.Namespace, params: SamplingParams) -> list[Prompt]:
    if not options.chat:
        if options.system is not None:
            raise UserError("--system is given without --chat", fix="add --chat")
        return list(options.prompts)
    system = [] if options.system is None else [Message("system", options.system)]
    return [llm.encode_chat([*system, Message("user", prompt)], params) for prompt in options.prompts]


def _open(options: argparse.Namespace, stack: contextlib.ExitStack) -> LLM:
    with failing_together(), LoadProgress() as progress:
        llm = LLM(
            options.runstream,
            kv_cache_tokens=options.kv_cache_tokens,
            verify_hash=options.verify_hash,
            num_threads=options.threads,
            huge_pages=options.huge_pages,
            on_load=progress.on_load,
            self_test=not options.no_self_test,
        )
        return stack.enter_context(llm)


def run_command(options: argparse.Namespace) -> int:
    """Generate and print; returns the exit status.

    Raises:
        UserError: the runstream cannot run here, or a prompt or sampling value is wrong.
    """
    with contextlib.ExitStack() as stack:
        llm = _open(options, stack)
        params = _sampling(llm, options)
        prompts = _encode(llm, options, params)
        if options.json:
            completions = [vars(completion) for completion in llm.generate(prompts, params)]
            print_json({"completions": completions, "statistics": llm.statistics.to_dict()})
            return 0
        pieces = llm.stream(prompts, params)
        output: OrderedOutput | None = None
        for piece in pieces:
            output = output or OrderedOutput(options.prompts, sys.stdout)
            output.push(piece.index, piece.text, piece.finish_reason is not None)
        print(f"\n{llm.statistics.summary_line()}")
    return 0
