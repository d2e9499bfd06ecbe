"""`LLM`: prompts in, text out. Ties together the runstream, the scheduler, the executor, sampling and text."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from vamc_runtime.errors import UserError
from vamc_runtime.executor import Executor, Ranks, StepArguments, cache_too_large
from vamc_runtime.generation_config import sampling_of
from vamc_runtime.kv_pages import PageAllocator
from vamc_runtime.machine import available_memory_bytes
from vamc_runtime.manifest import Manifest
from vamc_runtime.ranks.open import open_executor
from vamc_runtime.ranks.options import RankOptions
from vamc_runtime.ranks.place import launched_rank
from vamc_runtime.requests import (
    check_count,
    check_params,
    check_path,
    check_switch,
    check_text,
    list_of_messages,
    list_of_prompts,
    token_ids,
)
from vamc_runtime.runstream import open_runstream
from vamc_runtime.sampling import Sampler, SamplingParams
from vamc_runtime.scheduler import Scheduler
from vamc_runtime.self_test import check_ranks
from vamc_runtime.sequence import FinishReason, check_prompt
from vamc_runtime.sequence import Sequence as Request
from vamc_runtime.statistics import GenerationStatistics
from vamc_runtime.text.chat import ChatFormat, Message, build_chat
from vamc_runtime.text.checkpoint_files import read_json
from vamc_runtime.text.output import OutputText
from vamc_runtime.text.tokenizer import Tokenizer, load_tokenizer
from vamc_runtime.weights_memory import HugePages, OnLoad

Prompt = str | Sequence[int]
DEFAULT_CONTEXTS = 8
"""Full-length sequences the cache holds by default, as far as memory allows."""


@dataclass(frozen=True)
class Piece:
    """A bit of output as it is generated."""

    index: int
    """Which prompt it belongs to."""
    text: str
    """New text; may be empty while a character is incomplete."""
    token_ids: tuple[int, ...]
    """The tokens behind it."""
    finish_reason: FinishReason | None
    """Why the output ended, with its last piece."""


@dataclass(frozen=True)
class Completion:
    """The whole output of one prompt."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    num_prompt_tokens: int


@dataclass
class _Live:
    """One request in flight."""

    index: int
    request: Request
    sampler: Sampler
    output: OutputText


class LLM:
    """A runstream, opened.

    Example:
        with LLM("vacc_deploy/Baichuan2-13B-Chat-int8") as llm:
            print(llm.generate(["The capital of France is"])[0].text)

    Args:
        path: runstream directory.
        kv_cache_tokens: tokens the KV cache holds over all sequences; None for a few full contexts, bounded by half
            of the free memory. Memory is used only as far as tokens are written.
        verify_hash: compare every file with its sha256 first, large ones too.
        num_threads: threads of compiled code on each rank; None for one on every core of its share.
        huge_pages: where the weights lie, "auto", "on" or "off"; None for what the build config says.
        on_load: called while the weights are read: bytes in memory, bytes in all (rank 0's, of several).
        self_test: on a CPU that the runstream was not verified on, compute a few verified tokens first, for at most
            two seconds, and once only; False runs it untested and logs that.

    Any thread may use it, and several at once: they take turns, a `generate` as a whole, a `stream` step by step. A
    forked process may not; it opens the runstream itself. With several ranks these are started as child processes;
    when this process was itself started by `mpiexec`, it becomes one of them, and on ranks other than 0 entering the
    context serves rank 0 and then ends the process.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        kv_cache_tokens: int | None = None,
        verify_hash: bool = False,
        num_threads: int | None = None,
        huge_pages: HugePages | None = None,
        on_load: OnLoad | None = None,
        self_test: bool = True,
    ) -> None:
        path = check_path(path)
        if num_threads is not None:
            num_threads = check_count("num_threads", num_threads, what="threads")
        verify_hash = check_switch("verify_hash", verify_hash)
        if kv_cache_tokens is not None:
            kv_cache_tokens = check_count("kv_cache_tokens", kv_cache_tokens, what="tokens")
        runstream = open_runstream(path)
        # Its files are opened later, wherever the program stands then.
        self._runstream = dataclasses.replace(runstream, path=runstream.path.absolute())
        # Read now: a folder that is replaced or removed while it is open changes no text.
        self._files = self._runstream.tokenizer_folder()
        self._stack = contextlib.ExitStack()
        self._on_load = on_load
        self._self_test = check_switch("self_test", self_test)
        self._tokenizer: Tokenizer | None = None
        self._executor: Ranks | None = None
        self._lock = threading.RLock()
        self._process = os.getpid()
        """The one that opened the ranks."""
        self.statistics = GenerationStatistics()
        layout = self.manifest.kv_cache
        wanted = self._default_tokens() if kv_cache_tokens is None else kv_cache_tokens
        self._num_pages = -(-wanted // layout.page_tokens)
        if kv_cache_tokens is not None:
            self._check_cache_fits()
        self._options = RankOptions(
            num_pages=self._num_pages, num_threads=num_threads, huge_pages=huge_pages, verify_hash=verify_hash
        )

    @property
    def manifest(self) -> Manifest:
        """The runstream's manifest."""
        return self._runstream.manifest

    def _default_tokens(self) -> int:
        layout, limit = self.manifest.kv_cache, self.manifest.limits.max_context_tokens
        all_ranks_page_bytes = layout.page_bytes * self.manifest.tensor_parallel
        affordable = available_memory_bytes() // 2 // all_ranks_page_bytes * layout.page_tokens
        return max(limit, min(DEFAULT_CONTEXTS * limit, affordable))

    def _check_cache_fits(self) -> None:
        """Before ranks are started. Ranks of other hosts have their own memory and look for themselves.

        Raises:
            UserError: the KV cache that was asked for is larger than the memory there is.
        """
        num_ranks = self.manifest.tensor_parallel if launched_rank() is None else 1
        layout, available_bytes = self.manifest.kv_cache, available_memory_bytes()
        if self._num_pages * layout.page_bytes * num_ranks > available_bytes:
            raise cache_too_large(self._num_pages, layout, available_bytes, num_ranks)

    def __enter__(self) -> LLM:
        if self._executor is not None:
            raise UserError("this LLM is open already", fix="open a second one: LLM(path)")
        self._process = os.getpid()
        self._lock = threading.RLock()
        with contextlib.ExitStack() as stack:
            executor = stack.enter_context(open_executor(self._runstream, self._options, self._on_load))
            check_ranks(executor, self._runstream, num_pages=self._num_pages, enabled=self._self_test)
            self._stack = stack.pop_all()
        self._executor = executor
        self._allocator = PageAllocator(self._num_pages)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor = None  # a thread that generates stops after its step
        if os.getpid() == self._process:  # else the ranks are the parent's
            with self._lock:
                self._stack.close()

    def __reduce__(self) -> NoReturn:
        raise UserError(
            "an LLM cannot be copied or sent to another process: it holds memory and processes of its own",
            fix="pass the path of the runstream, and open it there",
        )

    @contextlib.contextmanager
    def _using(self) -> Iterator[Executor]:
        """Nobody else uses the ranks meanwhile."""
        self._ready()  # first: in a forked process the lock may be held for ever
        with self._lock:
            yield self._ready()

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer.

        Raises:
            UserError: the runstream was compiled from a checkpoint without one.
        """
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self._files)
        return self._tokenizer

    @property
    def has_tokenizer(self) -> bool:
        """Whether prompts may be text."""
        return any((self._files / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))

    def chat_format(self) -> ChatFormat:
        """How conversations become tokens.

        Raises:
            UserError: the checkpoint has no chat format.
        """
        return build_chat(self._files, self.tokenizer)

    def default_sampling(self, **overrides: object) -> SamplingParams:
        """The checkpoint's own generation settings (generation_config.json), with the given fields replaced."""
        path = self._files / "generation_config.json"
        return sampling_of(read_json(path), path, **overrides)

    def encode_chat(self, messages: Sequence[Message], params: SamplingParams) -> list[int]:
        """Token ids of a conversation, cut from the left so that `params.max_new_tokens` fit.

        Raises:
            UserError: no list of messages, or the checkpoint has no chat format.
        """
        messages, params = list_of_messages(messages), check_params(params)
        limit = self.manifest.limits.max_context_tokens
        return self.chat_format().render(messages, max(limit // 2, limit - params.max_new_tokens))

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | None = None) -> list[Completion]:
        """Complete every prompt; all run in one batch.

        Args:
            prompts: texts or lists of token ids.
            params: how to choose tokens; greedy when not given.

        Raises:
            UserError: not a list of prompts, a prompt that is empty, too long, or has a token id outside the
                vocabulary, the LLM is not open, or this is a forked process.
        """
        with self._using():
            ids = [self._prompt_ids(prompt) for prompt in list_of_prompts(prompts)]
            texts, tokens = [""] * len(ids), [list[int]() for _ in ids]
            reasons: list[FinishReason] = ["length"] * len(ids)
            for piece in self.stream(ids, params):
                texts[piece.index] += piece.text
                tokens[piece.index] += piece.token_ids
                reasons[piece.index] = piece.finish_reason or reasons[piece.index]
        return [
            Completion(text, tuple(out), reason, len(prompt))
            for text, out, reason, prompt in zip(texts, tokens, reasons, ids, strict=True)
        ]

    def stream(self, prompts: Sequence[Prompt], params: SamplingParams | None = None) -> Iterator[Piece]:
        """Like `generate`, token by token. Closing the iterator early frees what it holds."""
        params = check_params(params)
        with self._using():
            live = [self._begin(index, prompt, params) for index, prompt in enumerate(list_of_prompts(prompts))]
            return self._stream(live, self._allocator)

    def _stream(self, live: list[_Live], allocator: PageAllocator) -> Iterator[Piece]:
        scheduler = Scheduler(
            allocator,
            page_tokens=self.manifest.kv_cache.page_tokens,
            max_step_tokens=self.manifest.limits.max_prefill_tokens,
            max_context_tokens=self.manifest.limits.max_context_tokens,
        )
        try:
            for entry in live:
                scheduler.add(entry.request)
            yield from self._run(scheduler, {id(entry.request): entry for entry in live}, allocator)
        finally:
            if os.getpid() == self._process:  # else nobody uses the pages, and the lock may be held for ever
                with self._lock:
                    for entry in live:
                        if entry.request.pages or (entry.request.finish_reason is None and entry.request.max_tokens):
                            scheduler.finish(entry.request)

    def _begin(self, index: int, prompt: Prompt, params: SamplingParams) -> _Live:
        ids = self._prompt_ids(prompt)
        eos = self.tokenizer.eos_ids if self.has_tokenizer else frozenset()
        tokenizer = self.tokenizer if self.has_tokenizer else None
        request = Request(prompt_ids=ids, params=params, eos_ids=eos)
        return _Live(index, request, Sampler(params, ids, eos), OutputText(tokenizer, params.stop))

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        ids = self.tokenizer.encode(check_text(prompt)) if isinstance(prompt, str) else token_ids(prompt)
        check_prompt(ids, self.manifest.model.vocab_size, self.manifest.limits.max_context_tokens)
        return ids

    def _run(self, scheduler: Scheduler, live: dict[int, _Live], allocator: PageAllocator) -> Iterator[Piece]:
        started = time.perf_counter()
        while True:
            with self._using() as executor:  # and not while the caller has the pieces
                if allocator is not self._allocator:  # opened anew: other cache pages, which hold none of its tokens
                    raise UserError(
                        "this stream was begun before the LLM was closed, and ended with that",
                        fix="call `stream` again; one that should go on must do so within its `with LLM(path) as llm:`",
                    )
                pieces = self._step(executor, scheduler, live, started)
            if pieces is None:
                break
            yield from pieces
        if scheduler.num_waiting:
            raise UserError(
                f"{scheduler.num_waiting} of the prompts find no room: another stream holds the KV cache's pages",
                fix="finish or close the other stream first, or open the LLM with more kv_cache_tokens",
            )

    def _step(
        self, executor: Executor, scheduler: Scheduler, live: dict[int, _Live], started: float
    ) -> list[Piece] | None:
        """Compute one step and what it brings; None when there is nothing to do."""
        plan = scheduler.plan()
        if plan is None:
            return None
        begun = time.perf_counter()
        logits = executor.step(
            StepArguments(plan.input_ids, plan.position_ids, plan.seq_ids, plan.page_table, plan.logits_index)
        )
        wanting = [live[id(request)] for request in plan.wants_sample]
        tokens = [entry.sampler.sample(row) for entry, row in zip(wanting, logits, strict=False)]
        scheduler.complete(plan, tokens)
        now = time.perf_counter()
        self.statistics.add_step(plan.num_prefill_tokens, plan.num_decode_tokens, now - begun)
        for entry in wanting:
            if len(entry.request.output_ids) == 1:
                self.statistics.add_first_token(now - started)
        return [self._emit(scheduler, entry, token) for entry, token in zip(wanting, tokens, strict=True)]

    def _emit(self, scheduler: Scheduler, entry: _Live, token: int) -> Piece:
        """The piece of text that a new token makes, and the end of the request when a stop text appears."""
        text, stopped = entry.output.push(token)
        if stopped:
            scheduler.finish(entry.request, "stop")
            return Piece(entry.index, text, (token,), "stop")  # even where it is also the last token by length
        if entry.request.finish_reason is not None:
            text += entry.output.finish()
        return Piece(entry.index, text, (token,), entry.request.finish_reason)

    def _ready(self) -> Executor:
        if os.getpid() != self._process:
            raise UserError(
                f"this LLM was opened by process {self._process}, and this is process {os.getpid()}, forked from it",
                expected="a runstream opened in the process that uses it",
                fix="open the LLM after the fork, or start processes with multiprocessing's 'spawn'",
            )
        if self._executor is None:
            raise UserError(
                "this LLM is not open",
                expected="`with LLM(path) as llm:`, and its use within",
                fix="open it with `with`",
            )
        return self._executor

    def logits(self, tokens: Iterable[int], *, chunk_tokens: int | None = None) -> npt.NDArray[np.float32]:
        """Logits after every token of a sequence, for evaluation.

        Args:
            tokens: token ids, at most the context length.
            chunk_tokens: tokens per step; None for as many as one step takes.

        Returns:
            float32 [tokens, vocab].

        Raises:
            UserError: no tokens, too many, an id outside the vocabulary, or no tokens per step.
        """
        ids = token_ids(tokens, what="`tokens`")
        limits = self.manifest.limits
        check_prompt(ids, self.manifest.model.vocab_size, limits.max_context_tokens, min_output_tokens=0)
        if chunk_tokens is not None:
            chunk_tokens = check_count("chunk_tokens", chunk_tokens, what="tokens")
        chunk = min(chunk_tokens or limits.max_prefill_tokens, limits.max_prefill_tokens)
        with self._using() as executor:
            return self._logits(executor, ids, chunk)

    def _logits(self, executor: Executor, ids: list[int], chunk: int) -> npt.NDArray[np.float32]:
        page_tokens = self.manifest.kv_cache.page_tokens
        num_pages = -(-len(ids) // page_tokens)
        if num_pages > self._allocator.num_free:
            raise UserError(
                f"{len(ids)} tokens need {num_pages} KV pages, and {self._allocator.num_free} are free",
                fix="close open streams, or open the LLM with more kv_cache_tokens",
            )
        pages = self._allocator.allocate(num_pages)
        table = np.array([pages], np.int32)
        rows = []
        try:
            for begin in range(0, len(ids), chunk):
                part = np.array(ids[begin : begin + chunk], np.int32)
                positions = np.arange(begin, begin + len(part), dtype=np.int32)
                arguments = StepArguments(
                    part, positions, np.zeros_like(part), table, np.arange(len(part), dtype=np.int32)
                )
                rows.append(executor.step(arguments))
        finally:
            self._allocator.free(pages)
        return np.concatenate(rows)
