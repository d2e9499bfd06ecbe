"""`make numerics`: build and verify the demo models offline, and compare what is found with the golden figures.

Exit status: 0 when no figure is worse than its golden one and every comparison keeps its budget, else 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from golden.cases import DEGREES, DEMO_MODELS, PRECISIONS, Case, every_case
from golden.document import update_document
from golden.files import read_golden, write_golden
from golden.matrix import Found, find_all
from golden.summary import FIGURES, Change, Summary, compare, updated


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A case beside its golden figures."""

    found: Found
    worse: tuple[str, ...]
    other: tuple[str, ...]
    """Better, or new: worth a look, no failure."""

    @property
    def passed(self) -> bool:
        """Whether nothing is worse and nothing outside its budget."""
        return not self.worse and not self.found.failures


def judge(found: Found, golden: Summary | None) -> Verdict:
    """Compare a case with what was kept of it."""
    changes: list[Change] = [] if golden is None else compare(golden, found.summary)
    return Verdict(
        found=found,
        worse=tuple(str(change) for change in changes if change.is_worse),
        other=("no golden figures",) if golden is None else tuple(str(c) for c in changes if not c.is_worse),
    )


def _row(verdict: Verdict) -> list[str]:
    """A line of the table: the original against what was compiled, and how that compares."""
    case = verdict.found.case
    pairs = verdict.found.summary.pairs
    figures = next((value for name, value in pairs.items() if name.startswith("original -> compiled, ")), {})
    shown = [FIGURES[name].write(figures[name]) if name in figures else "" for name in ("kl", "same", "ppl", "block")]
    notes = [
        *([f"{len(verdict.found.failures)} outside budget"] if verdict.found.failures else []),
        *([f"{len(verdict.worse)} worse"] if verdict.worse else []),
        *([f"{len(verdict.other)} better or new"] if verdict.other else []),
    ]
    return [case.model, case.precision, str(case.tp), *shown, ", ".join(notes) or "as golden"]


def show(verdicts: Sequence[Verdict], console: Console) -> None:
    """The table, and below it every figure that changed."""
    titles = ("model", "precision", "ranks", "mean KL", "same top", "perplexity", "block error", "verdict")
    table = Table(*titles, box=None, pad_edge=False, title="original -> compiled", title_justify="left")
    for verdict in verdicts:
        table.add_row(*_row(verdict), style=None if verdict.passed else "red")
    console.print(table)
    for verdict in verdicts:
        lines = [
            *(f"outside its budget: {failure}" for failure in verdict.found.failures),
            *(f"worse: {change}" for change in verdict.worse),
            *(f"better or new: {change}" for change in verdict.other),
        ]
        for line in lines:
            console.print(f"{verdict.found.case}: {line}", soft_wrap=True, highlight=False, markup=False)


def parse_arguments() -> argparse.Namespace:
    """The command line; what is not given means everything."""
    parser = argparse.ArgumentParser(prog="python -m golden", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", action="append", choices=DEMO_MODELS, help="only this model; may be repeated")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="only this one; may be repeated")
    parser.add_argument("--tp", action="append", type=int, choices=DEGREES, help="only this one; may be repeated")
    parser.add_argument("--new", action="store_true", help="only what has no golden figures yet")
    parser.add_argument("--update", action="store_true", help="rewrite the golden figures and docs/numerics.md")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write every case's page, JSON and JUnit XML there")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=min(4, cores), metavar="N", help="cases at a time (default: cores)")
    return parser.parse_args()


def main() -> int:
    """Verify the cases that were asked for; returns the exit status."""
    options, golden = parse_arguments(), read_golden()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # the models are small: threads would only wait
    cases = [
        case
        for case in every_case()
        if case.model in (options.model or DEMO_MODELS)
        and case.precision in (options.precision or PRECISIONS)
        and case.tp in (options.tp or DEGREES)
        and not (options.new and case in golden)
    ]
    progress = Console(stderr=True, highlight=False)
    verdicts: dict[Case, Verdict] = {}
    for found in find_all(cases, options.jobs, options.report):
        verdicts[found.case] = judge(found, golden.get(found.case))
        mark = "✓" if verdicts[found.case].passed else "✗"
        progress.print(f"{mark} {len(verdicts):2}/{len(cases)}  {found.case}  {found.seconds:.1f} s", soft_wrap=True)
    ordered = [verdicts[case] for case in cases]
    show(ordered, Console(width=max(120, Console().width)))  # a log of 80 columns would fold the table
    outside = any(verdict.found.failures for verdict in ordered)
    if options.update and not outside:
        summaries = {v.found.case: updated(golden.get(v.found.case), v.found.summary) for v in ordered}
        write_golden(golden | summaries)
        update_document()
        print("golden figures and docs/numerics.md updated")
        return 0
    passed = all(verdict.passed for verdict in ordered)
    print(f"{'pass' if passed else 'fail'}: {sum(v.passed for v in ordered)} of {len(ordered)} cases as good as golden")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
