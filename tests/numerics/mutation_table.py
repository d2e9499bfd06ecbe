"""The table of mutations in docs/numerics.md: `make numerics-update` makes every mutation and writes what caught it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from golden.document import DOCUMENT, replace_part
from mutation import Mutation
from mutations import MUTATIONS
from workshop import Workshop

from vamc_compiler.verify.result import BudgetLine, PairResult

PART = "mutations"
TITLES = ("Mutation", "Model", "Injected by", "Caught by", "Named", "`vamc compile`")
_UNSEEN = "does not see it: "
_WHEN = {
    "modeling": "",
    "modeling and trace": ", traced again",
    "graph": " while the graph is made",
    "library": " while the library is compiled",
    "weights": " while the weights are written",
    "stale library": ": the library compiled from it replaces the clean one",
}


def _injected(mutation: Mutation) -> str:
    """How the mistake is made."""
    if mutation.during == "files":
        return mutation.damaged
    (place,) = {edit.place.removeprefix("vamc_compiler.") for edit in mutation.edits}
    return f"edit of `{place}`{_WHEN[mutation.during]}"


def _excess(line: BudgetLine) -> float:
    return line.value / line.limit if line.limit else line.value


def _caught(pair: PairResult) -> str:
    """The comparison that failed, and the figure that is furthest outside; a block's own error before all others."""
    lines = [line for line in pair.budgets if not line.passed]
    stages = f"{pair.check}: {pair.before} → {pair.after}"
    if pair.check == "weights":
        return f"{stages}; {lines[0].value:.0f} tensor{'s' * (lines[0].value > 1)} differ{'s' * (lines[0].value == 1)}"
    blocks = [line for line in lines if "block" in line.name]
    worst = max(blocks or lines, key=_excess)
    return f"{stages}; {worst.name} {worst.value:.2g} (at most {worst.limit:g})"


def _named(pair: PairResult, num_ranks: int) -> str:
    """The place, as the report has it."""
    place = pair.location
    assert place is not None, "a pair that fails says where"
    every = len(place.ranks) == num_ranks > 1
    ranks = "all ranks" if every else f"rank{'s' * (len(place.ranks) > 1)} {', '.join(map(str, place.ranks))}"
    text = ", ".join(part for part in (place.block, f"`{place.op}`") if part)
    text += f" ({ranks})" if place.ranks else ""
    is_words = pair.check == "weights" or "AllReduce" in place.op
    return f"{text}: {place.detail}" if is_words else text


def rows(mutation: Mutation, workshop: Workshop) -> Iterator[list[str]]:
    """A line for each comparison that has to fail."""
    build = _caught_by_a_build(mutation, workshop)
    failed = [pair for pair in workshop.verified(mutation).pairs if not pair.passed]
    for number, pair in enumerate(failed[: len(mutation.found)]):
        first = ["", "", ""] if number else [mutation.name, str(mutation.case), _injected(mutation)]
        yield [*first, _caught(pair), _named(pair, mutation.case.num_ranks), "" if number else build]


def _caught_by_a_build(mutation: Mutation, workshop: Workshop) -> str:
    """What the verification of a build says."""
    try:
        failed = [pair for pair in workshop.certified(mutation) if not pair.passed]
    except KeyError as error:  # while the graph is made
        return f"does not compile it: no {error.args[0]}"
    assert bool(failed) is (mutation.unseen is None), f"{mutation.name}: what a build does not see has a reason"
    return "refuses it" if failed else f"{_UNSEEN}{mutation.unseen}"


def _cells() -> list[list[str]]:
    """The rows that the document shows."""
    part = DOCUMENT.read_text(encoding="utf-8").partition(f"<!-- {PART}: begin")[2].partition(f"<!-- {PART}: end")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names() -> list[str]:
    """The mutations that the document shows."""
    return [row[0] for row in _cells() if row[0]]


def unseen_names() -> dict[str, str]:
    """Those of which it says that a build does not see them, and why."""
    return {row[0]: row[-1].removeprefix(_UNSEEN) for row in _cells() if row[-1].startswith(_UNSEEN)}


def main() -> None:
    """Make every mutation and rewrite the part of the document."""
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(Path(folder))
        lines = [TITLES, ["---"] * len(TITLES)]
        for mutation in MUTATIONS:
            lines += rows(mutation, workshop)
            print(mutation.name, flush=True)
    replace_part(PART, "\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    main()
