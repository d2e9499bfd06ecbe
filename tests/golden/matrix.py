"""Many cases built and verified, in processes of their own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from golden.cases import Case, build_case, verify_case
from golden.summary import Summary, summarize


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one case gave."""

    case: Case
    summary: Summary
    failures: tuple[str, ...]
    """Comparisons outside their budget."""
    seconds: float


def find(case: Case, report: Path | None) -> Found:
    """Build and verify one case, in a folder that is removed afterwards."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="vamc-golden-") as folder:
        found = verify_case(build_case(case, Path(folder) / "runstream"))
    if report is not None:
        from vamc_compiler.verify.report import write_report

        write_report(found, report / str(case).replace(",", "").replace(" ", "-"))
    failures = (f"{pair.location} ({pair.check})" for pair in found.pairs if not pair.passed)
    return Found(case=case, summary=summarize(found), failures=tuple(failures), seconds=time.perf_counter() - start)


def find_all(cases: Sequence[Case], jobs: int, report: Path | None) -> Iterator[Found]:
    """Every case as it is finished, `jobs` at a time."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(find, case, report) for case in cases]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)
