"""Measuring cases: steps and limits in turns, so that both see the same machine."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vamc_runtime.bench.cases import Case
from vamc_runtime.bench.costs import Cost, cost_of, fill_cache, rank_weights
from vamc_runtime.bench.profile import Profile, ProfileSteps
from vamc_runtime.bench.roof import ReadOnce, peaks
from vamc_runtime.executor import Ranks
from vamc_runtime.manifest import Manifest

WARM_UPS = 2
PROFILED = 3
"""Repetitions that a table of operations is the mean of."""

OnCase = Callable[[Case], None]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One case, measured."""

    case: Case
    seconds: tuple[float, ...]
    """Of each repetition: all steps of the case, sampling and text not included."""
    cost: Cost
    read_seconds: tuple[float, ...]
    """Decode: a plain read of the same weights and cached tokens, after each repetition; the slowest rank's."""
    read_bytes: int
    """What that read, over all ranks."""
    weight_read_seconds: tuple[float, ...]
    """The part of `read_seconds` that went into weights."""
    peaks: dict[str, float]
    """Prefill: multiply-adds per second in registers over all ranks, by type; medians."""
    profile: Profile | None = None
    """Rank 0's operations, where they were asked for."""

    @property
    def median_seconds(self) -> float:
        """The middle repetition."""
        return statistics.median(self.seconds)

    @property
    def tokens_per_second(self) -> float:
        """Tokens computed per second, of the middle repetition."""
        return self.case.num_tokens / self.median_seconds

    @property
    def linear_per_second(self) -> float:
        """Multiply-adds of the linear layers per second of the whole case."""
        return self.cost.linear_multiply_adds / self.median_seconds

    @property
    def read_bandwidth(self) -> float | None:
        """Decode: bytes per second of the plain read."""
        return self.read_bytes / statistics.median(self.read_seconds) if self.read_seconds else None

    def share_of_roof(self, peak: str) -> float | None:
        """Decode: time of the plain read over time of the step. Prefill: linear layers over the peak of a type."""
        if self.read_seconds:
            return statistics.median(self.read_seconds) / self.median_seconds
        return self.linear_per_second / self.peaks[peak] if peak in self.peaks else None


def reference_peak(manifest: Manifest, mcpu: str) -> str:
    """The type whose peak bounds a prefill with one of the libraries; empty where that would be AMX's, not measured."""
    backend = manifest.settings.get("backend")
    options = backend.get("compile") if isinstance(backend, dict) else None
    in_bf16 = isinstance(options, dict) and options.get("prefill_precision") == "bf16"
    weights = manifest.precision.weights
    peak = "int8" if weights == "int8" else "bf16" if in_bf16 or weights == "bf16" else "fp32"
    requires = {feature for library in manifest.libraries if library.mcpu == mcpu for feature in library.requires}
    return "" if f"amx_{peak}" in requires else peak


def measure(
    ranks: Ranks, manifest: Manifest, cases: Sequence[Case], *, repeat: int, with_ops: bool, on_case: OnCase
) -> list[Result]:
    """Measure every case.

    Args:
        ranks: opened with pages for the largest case.
        manifest: theirs.
        cases: what to measure.
        repeat: repetitions of each case, after warm-up.
        with_ops: profile each case as well, afterwards.
        on_case: told which case begins.

    Raises:
        UserError: the runstream's libraries cannot measure the machine.
    """
    ranks.on_every_rank(peaks)  # refuses old runstreams before any work
    sizes = ranks.on_every_rank(rank_weights)
    num_pages = max(case.num_pages(manifest.kv_cache.page_tokens) for case in cases)
    ranks.on_every_rank(functools.partial(fill_cache, num_pages=num_pages))
    results = []
    for case in cases:
        on_case(case)
        results.append(_measure_case(ranks, manifest, case, cost_of(case, manifest, sizes), repeat, with_ops))
    return results


def _measure_case(ranks: Ranks, manifest: Manifest, case: Case, cost: Cost, repeat: int, with_ops: bool) -> Result:
    ids = np.random.default_rng(0)
    read = ReadOnce(case.num_pages(manifest.kv_cache.page_tokens))
    seconds, reads, weight_reads, read_bytes = [], [], [], 0
    found: list[dict[str, float]] = []
    for number in range(WARM_UPS + repeat):
        steps = case.steps(manifest, ids)
        begun = time.perf_counter()
        for step in steps:
            ranks.step(step)
        elapsed = time.perf_counter() - begun
        if number < WARM_UPS:
            continue
        seconds.append(elapsed)
        if case.phase == "prefill":
            found.append(_sums(ranks.on_every_rank(peaks)))
        else:
            times = ranks.on_every_rank(read)
            reads.append(max(rank.weight_seconds + rank.kv_seconds for rank in times))
            weight_reads.append(max(rank.weight_seconds for rank in times))
            read_bytes = sum(rank.weight_bytes + rank.kv_bytes for rank in times)
    profile = None
    if with_ops:
        profile = ranks.on_every_rank(ProfileSteps(tuple(case.steps(manifest, ids)), PROFILED))[0]
    return Result(
        case=case,
        seconds=tuple(seconds),
        cost=cost,
        read_seconds=tuple(reads),
        read_bytes=read_bytes,
        weight_read_seconds=tuple(weight_reads),
        peaks={name: statistics.median(peak[name] for peak in found) for name in (found[0] if found else ())},
        profile=profile,
    )


def _sums(ranks: Sequence[dict[str, float]]) -> dict[str, float]:
    """By type over all ranks, for the types that each has."""
    return {name: sum(rank[name] for rank in ranks) for name in ranks[0] if all(name in rank for rank in ranks)}
