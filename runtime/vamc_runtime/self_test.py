"""The self-test: on a CPU that a runstream was not verified on, a few tokens first, compared with the certificate's.

Compiled code may take other paths on another CPU, and a CPU, an emulator or a hypervisor may have bugs of its own. The
certificate holds the log-probabilities of a short sequence as they were verified; the test computes the same sequence
here, as far as two seconds last, and remembers that it passed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vamc_runtime import passed_checks
from vamc_runtime.certificate import FILE_NAME, Certificate, Golden, log_probabilities_at, read_certificate
from vamc_runtime.errors import UserError
from vamc_runtime.executor import Executor, RankExecutor, Ranks, StepArguments
from vamc_runtime.machine import cpu_model
from vamc_runtime.manifest import Manifest
from vamc_runtime.printable import printable
from vamc_runtime.runstream import Runstream, choose_library

BUDGET_SECONDS = 2.0
"""No step begins that would probably end later."""
FIRST_STEP_TOKENS = 4
GROWTH = 8
"""A step has at most so many times the tokens of the longest before it."""

Clock = Callable[[], float]
State = Literal["none", "not needed", "passed before", "due"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, order=True)
class Host:
    """What a rank computes with."""

    cpu: str
    """`machine.cpu_model`."""
    library: str
    """mcpu of the library that runs there."""
    code: str
    """sha256 of that library."""

    def __str__(self) -> str:
        return f"{self.cpu} (library {self.library})"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the test measured."""

    num_tokens: int
    """Golden tokens that were computed within the budget."""
    difference: float
    """Mean absolute difference of the log-probabilities, in nats; NaN where a logit was not finite."""


def this_host(runstream: Runstream) -> Host:
    """The calling process's.

    Raises:
        UserError: no library runs on this CPU.
    """
    library = choose_library(runstream)
    return Host(cpu=cpu_model(), library=library.mcpu, code=runstream.manifest.files[library.file].sha256)


def _host_of(rank: RankExecutor) -> Host:
    """A task for every rank: they may be on several machines."""
    return this_host(rank.runstream)


def find_state(runstream: Runstream, certificate: Certificate | None, hosts: Sequence[Host]) -> State:
    """Whether a test has to run: not without golden tokens, nor where they were verified, nor a second time."""
    if certificate is None or certificate.golden is None:
        return "none"
    if all((host.cpu, host.library) == (certificate.cpu, certificate.library) for host in hosts):
        return "not needed"
    return "passed before" if passed_checks.has_passed("self_tests", _key(runstream, hosts)) else "due"


def _key(runstream: Runstream, hosts: Sequence[Host]) -> str:
    """Names the certificate, the libraries and the CPUs of a test."""
    parts = [runstream.manifest.files[FILE_NAME].sha256, *([h.cpu, h.library, h.code] for h in sorted(set(hosts)))]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def check_ranks(
    ranks: Ranks, runstream: Runstream, *, num_pages: int, enabled: bool, clock: Clock = time.perf_counter
) -> None:
    """Run the self-test of a runstream that was just opened, where it is due.

    Args:
        ranks: opened; nothing else uses their cache pages yet.
        runstream: theirs.
        num_pages: cache pages that each rank owns.
        enabled: False only logs a test that would be due.
        clock: seconds.

    Raises:
        UserError: what is computed here is not what was verified, or the certificate is damaged.
    """
    certificate = read_certificate(runstream)
    if certificate is None or certificate.golden is None:
        return
    hosts = sorted(set(ranks.on_every_rank(_host_of)))
    if find_state(runstream, certificate, hosts) != "due":
        return
    verified = f"{certificate.cpu} (library {certificate.library or 'none'})"
    here = " and ".join(map(str, hosts))
    if not enabled:
        _log.warning("vamc: self-test skipped: numerics were verified on %s, and this is %s", printable(verified), here)
        return
    _check_ids(certificate.golden, runstream)
    outcome = run_golden(ranks, runstream.manifest, certificate.golden, num_pages=num_pages, clock=clock)
    if not outcome.difference <= certificate.golden.tolerance:  # so that NaN does not pass
        raise UserError(
            f"the self-test failed on {here}: log-probabilities differ by {outcome.difference:.3g} on average over "
            f"{outcome.num_tokens} tokens from those verified on {verified}",
            expected=f"at most {certificate.golden.tolerance:.3g}",
            fix="compile on this machine, or for its CPU with backend.target.mcpu; `vamc verify` shows where numbers "
            "go wrong; --no-self-test (self_test=False) runs it as it is, at your own risk",
        )
    passed_checks.remember("self_tests", _key(runstream, hosts), f"{runstream.manifest.name} on {here}")


def _check_ids(golden: Golden, runstream: Runstream) -> None:
    """Compiled code reads memory at any token id it is given."""
    vocab_size = runstream.manifest.model.vocab_size
    for token in (*golden.token_ids, *(token for row in golden.top_ids for token in row)):
        if not 0 <= token < vocab_size:
            raise UserError(
                f"{runstream.path / FILE_NAME} has the token id {token}",
                expected=f"0 to {vocab_size - 1}",
                fix="the file was damaged or edited: compile the runstream again",
            )


def run_golden(
    executor: Executor, manifest: Manifest, golden: Golden, *, num_pages: int, clock: Clock = time.perf_counter
) -> Outcome:
    """Compute golden tokens for as long as the budget lasts, one step at least, and compare.

    Args:
        executor: computes the steps; pages from 0 on are overwritten.
        manifest: its runstream's.
        golden: ids below the vocabulary's size.
        num_pages: cache pages of the executor.
        clock: seconds.
    """
    room = min(manifest.limits.max_context_tokens, num_pages * manifest.kv_cache.page_tokens)
    longest = min(len(golden.token_ids), room)
    differences: list[float] = []
    pace = _Pace()
    begin, started = 0, clock()
    while begin < longest:
        size = min(pace.next_tokens(clock() - started), longest - begin, manifest.limits.max_prefill_tokens)
        if size < 1:
            break
        arguments = _step(golden.token_ids[begin : begin + size], begin, manifest.kv_cache.page_tokens)
        stepped = clock()
        logits = executor.step(arguments)
        pace.add(size, clock() - stepped)
        for position, row in enumerate(logits, begin):
            found = log_probabilities_at(row, golden.top_ids[position])
            differences.extend(np.abs(found - golden.log_probabilities[position]))
        begin += size
    return Outcome(num_tokens=begin, difference=float(np.mean(differences)))


class _Pace:
    """Chooses how many tokens the next step takes, from how long the earlier ones took.

    A few tokens first, which tell the speed; one alone, as in generation; then as many as there is time for, as in a
    prompt: kernels differ by the number of tokens. A longer step takes at most in proportion longer.
    """

    def __init__(self) -> None:
        self._num_steps = 0
        self._most_tokens = 0
        self._slowest_seconds = 0.0

    def add(self, num_tokens: int, seconds: float) -> None:
        """Record a step."""
        self._num_steps += 1
        self._most_tokens = max(self._most_tokens, num_tokens)
        self._slowest_seconds = max(self._slowest_seconds, seconds)

    def next_tokens(self, used_seconds: float) -> int:
        """Tokens of the next step, at most; 0 when it would probably end beyond the budget."""
        if self._num_steps == 0:
            return FIRST_STEP_TOKENS
        steps_left = (BUDGET_SECONDS - used_seconds) / max(self._slowest_seconds, 1e-9)
        if steps_left < 1:
            return 0
        return 1 if self._num_steps == 1 else int(self._most_tokens * min(steps_left, GROWTH))


def _step(token_ids: Sequence[int], begin: int, page_tokens: int) -> StepArguments:
    """Tokens of one sequence from a position on, its pages being 0, 1, 2 and so on; logits after each of them."""
    num_tokens = len(token_ids)
    end = begin + num_tokens
    return StepArguments(
        input_ids=np.array(token_ids, np.int32),
        position_ids=np.arange(begin, end, dtype=np.int32),
        seq_ids=np.zeros(num_tokens, np.int32),
        page_table=np.arange(-(-end // page_tokens), dtype=np.int32)[None],
        logits_index=np.arange(num_tokens, dtype=np.int32),
    )
