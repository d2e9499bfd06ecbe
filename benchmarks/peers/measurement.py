"""The interleaved measurement: in every round each contestant in turn, all phases of one before the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contestants.interface import MAX_BATCH
from entries import ENTRIES
from preparation import drop_from_page_cache, log_file, model_folder
from quiet import foreign_cores, read_times, wait_until_quiet
from shapes import SHAPES
from workers import ContestantError, Worker

FIRST_WORD = 300
"""Token ids below are special tokens and bytes in the synthetic vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure, and how often."""

    work: Path
    """Directory of checkpoints and converted models."""
    shape: str
    """A key of SHAPES."""
    cores: list[int]
    """Cores for every contestant, one thread each."""
    rounds: int
    """Rounds of the interleaved run, without the warm-up."""
    prefill_tokens: int
    """Length of the prompt whose prefill is measured."""
    prompt_tokens: int
    """Length of the prompts before decode is measured."""
    decode_steps: int
    """Steps of each measurement of decode."""
    batch: int
    """Prompts of the second decode measurement; 1 to leave it out."""
    reload_every: int
    """Rounds after which every worker is started anew, so that models lie on other physical pages; 0 for never."""
    one_at_a_time: bool
    """Load each contestant only while it is measured, every round: least memory, other pages each time."""
    foreign_cores: float
    """A measurement during which others used more CPU than this is taken again."""
    attempts: int
    """How often at most; of disturbed measurements the least disturbed is kept."""
    patience_s: float
    """Longest wait for others to become quiet, before each attempt."""


@dataclass(frozen=True)
class Sample:
    """One measurement."""

    round: int
    contestant: str
    phase: str
    """prefill, decode, or decode_b followed by the batch size."""
    tokens_per_s: float
    """Over all prompts of the batch."""
    step_s: tuple[float, ...]
    """Seconds of every step behind it."""
    foreign_cores: float
    """CPU that others used meanwhile, in cores."""
    token: int | None = None
    """The token that a prefill chose."""


class Runner:
    """Takes the samples of one group of contestants.

    After `run`, `facts` holds what contestants say about themselves, `memory_bytes` the peak resident size of each,
    `failures` the error of those that had to be left out.
    """

    def __init__(self, plan: Plan, names: list[str]) -> None:
        self._plan, self._names = plan, names
        self._workers: dict[str, Worker] = {}
        self.facts: dict[str, dict[str, str]] = {}
        self.memory_bytes: dict[str, int] = {}
        self.failures: dict[str, str] = {}

    def run(self) -> list[Sample]:
        """All rounds."""
        samples: list[Sample] = []
        with ExitStack() as stack:
            for number in range(self._plan.rounds):
                if self._plan.reload_every and number % self._plan.reload_every == 0:
                    stack.close()
                    self._workers.clear()
                samples += self._round(number, stack)
        return [sample for sample in samples if sample.contestant not in self.failures]

    def _round(self, number: int, stack: ExitStack) -> Iterator[Sample]:
        """Measure every contestant once; who begins moves on by one each round, so that no one is always after X."""
        prompts = self._prompts(number)
        first = number % len(self._names)
        for name in [*self._names[first:], *self._names[:first]]:
            if name in self.failures:
                continue
            try:
                if self._plan.one_at_a_time:
                    with ExitStack() as short:
                        yield from self._measure(number, name, self._open(name, short), prompts)
                else:
                    if name not in self._workers:
                        self._workers[name] = self._open(name, stack)
                    yield from self._measure(number, name, self._workers[name], prompts)
            except ContestantError as error:
                self.failures[name] = str(error)
                print(f"{name}: left out, {error}", flush=True)

    def _prompts(self, number: int) -> dict[str, Any]:
        """New tokens for every round, the same for every contestant; nobody can reuse a cache of the round before."""
        plan, vocab_size = self._plan, SHAPES[self._plan.shape].vocab_size
        tokens = np.random.default_rng(number)
        long = tokens.integers(FIRST_WORD, vocab_size, plan.prefill_tokens)
        short = tokens.integers(FIRST_WORD, vocab_size, (MAX_BATCH, plan.prompt_tokens))
        return {"long": long.tolist(), "short": short.tolist()}

    def _open(self, name: str, stack: ExitStack) -> Worker:
        """Start a worker, load its model, and warm it up with what will be measured."""
        plan = self._plan
        log = log_file(plan.work, plan.shape, name)
        print(f"  loading {name}", flush=True)
        worker = stack.enter_context(Worker(name, ENTRIES[name], plan.cores, log))
        folder = model_folder(plan.work, plan.shape, name)
        drop_from_page_cache(folder)
        self.facts[name] = worker.ask("open", folder=str(folder), num_threads=len(plan.cores))
        prompts = self._prompts(plan.rounds)
        worker.ask("prefill", tokens=prompts["long"])
        worker.ask("decode", prompts=prompts["short"][:1], num_steps=4)
        if plan.batch > 1:
            worker.ask("decode", prompts=prompts["short"][: plan.batch], num_steps=2)
        self.memory_bytes[name] = worker.ask("memory")
        return worker

    def _measure(self, number: int, name: str, worker: Worker, prompts: dict[str, Any]) -> list[Sample]:
        """The samples of one contestant in one round."""
        plan = self._plan
        (seconds, token), foreign = self._undisturbed(worker, "prefill", tokens=prompts["long"])
        samples = [Sample(number, name, "prefill", plan.prefill_tokens / seconds, (seconds,), foreign, token)]
        for batch in sorted({1, plan.batch}):
            some = prompts["short"][:batch]
            steps, foreign = self._undisturbed(worker, "decode", prompts=some, num_steps=plan.decode_steps)
            phase = "decode" if batch == 1 else f"decode_b{batch}"
            samples.append(Sample(number, name, phase, batch * len(steps) / sum(steps), tuple(steps), foreign))
        found = "  ".join(f"{sample.phase} {sample.tokens_per_s:7.2f}" for sample in samples)
        others = max(sample.foreign_cores for sample in samples)
        print(f"round {number + 1}/{plan.rounds} {name:20} {found} tok/s, others {others:.2f} cores", flush=True)
        return samples

    def _undisturbed(self, worker: Worker, do: str, **arguments: Any) -> tuple[Any, float]:
        """What the worker answers when hardly anybody else uses the CPU, and the cores that others used."""
        results = []
        for _ in range(self._plan.attempts):
            wait_until_quiet(worker.pid, self._plan.foreign_cores, self._plan.patience_s)
            before = read_times(worker.pid)
            reply = worker.ask(do, **arguments)
            results.append((reply, foreign_cores(before, read_times(worker.pid))))
            if results[-1][1] <= self._plan.foreign_cores:
                break
        return min(results, key=lambda result: result[1])
