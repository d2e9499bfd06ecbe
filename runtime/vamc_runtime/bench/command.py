"""`vamc bench`: measure, show, write."""

from __future__ import annotations

import argparse
import contextlib
import sys

from vamc_runtime.bench.cases import Case, make_cases
from vamc_runtime.bench.measure import Result, measure, reference_peak
from vamc_runtime.bench.report import as_data, write_csv
from vamc_runtime.bench.surroundings import describe_rank, surroundings
from vamc_runtime.bench.tables import case_table, heading, op_table
from vamc_runtime.console import print_json, say
from vamc_runtime.errors import UserError
from vamc_runtime.load_progress import LoadProgress
from vamc_runtime.machine import available_memory_bytes
from vamc_runtime.manifest import Manifest
from vamc_runtime.printable import printable
from vamc_runtime.ranks.open import failing_together, open_executor
from vamc_runtime.ranks.options import RankOptions
from vamc_runtime.runstream import open_runstream
from vamc_runtime.self_test import check_ranks


def bench_command(options: argparse.Namespace) -> int:
    """Measure and print; returns the exit status.

    Raises:
        UserError: the runstream cannot run here or fails its self-test, lengths beyond its limits, or libraries
            without what is measured.
    """
    if options.repeat < 1:
        raise UserError(f"--repeat {options.repeat}", expected="at least 1")
    with contextlib.ExitStack() as stack:
        with failing_together(), LoadProgress() as progress:
            runstream = open_runstream(options.runstream)
            manifest = runstream.manifest
            cases = make_cases(manifest.limits, options.prefill, options.decode_batch, options.context)
            rank_options = RankOptions(
                num_pages=_num_pages(manifest, cases), num_threads=options.threads, huge_pages=options.huge_pages
            )
            ranks = stack.enter_context(open_executor(runstream, rank_options, progress.on_load))
            check_ranks(ranks, runstream, num_pages=rank_options.num_pages, enabled=not options.no_self_test)
        around = surroundings(manifest, ranks.on_every_rank(describe_rank))
        results = measure(ranks, manifest, cases, repeat=options.repeat, with_ops=options.ops, on_case=_announce)
    peak = reference_peak(manifest, around["runstream"]["library"])
    if options.csv is not None:
        write_csv(options.csv, around, results, peak)
    if options.json:
        print_json({**around, "results": [as_data(result, peak) for result in results]})
    else:
        _show(around, results, peak)
    return 0


def _num_pages(manifest: Manifest, cases: list[Case]) -> int:
    layout = manifest.kv_cache
    largest = max(cases, key=lambda case: case.num_pages(layout.page_tokens))
    num_pages = largest.num_pages(layout.page_tokens)
    needed, available = num_pages * layout.page_bytes * manifest.tensor_parallel, available_memory_bytes()
    if needed > available:
        raise UserError(
            f"{largest} needs {needed / 2**30:.1f} GiB for the KV cache, and {available / 2**30:.1f} GiB are free",
            fix="measure smaller batches or contexts",
        )
    return num_pages


def _announce(case: Case) -> None:
    if sys.stderr.isatty():
        say(f"measuring {case}")  # a line, not a spinner, which would take time of a core


def _show(around: dict[str, object], results: list[Result], peak: str) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    for line in heading(around):
        console.print(printable(line), markup=False)
    console.print()
    console.print(case_table(results, peak))
    for result in results:
        if result.profile is not None:
            console.print(f"\n{result.case}, operations of rank 0", markup=False)
            console.print(op_table(result.profile))
